/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_gaussian.c - continuous actions that are drawn: a normal distribution, perhaps by way of tanh.
 *
 * The twin of edgeqrl/network/draws.py and decode.py, which say where the tables come from.
 */
#include "eqrl_kernels.h"

/* z with 13 fraction bits where P(|Z| > z) = 2^(i / 16 - 32) * (1 + i % 16 / 16). */
static const uint16_t normal_knots[513] = {
    51921u, 51844u, 51772u, 51703u, 51638u, 51576u, 51517u, 51460u, 51406u, 51354u, 51304u, 51256u,
    51209u, 51164u, 51121u, 51079u, 51038u, 50960u, 50887u, 50817u, 50751u, 50688u, 50628u, 50571u,
    50515u, 50462u, 50412u, 50363u, 50315u, 50270u, 50225u, 50183u, 50141u, 50062u, 49987u, 49916u,
    49849u, 49785u, 49724u, 49665u, 49609u, 49555u, 49504u, 49454u, 49406u, 49359u, 49314u, 49271u,
    49229u, 49148u, 49072u, 49000u, 48931u, 48866u, 48804u, 48744u, 48687u, 48632u, 48580u, 48529u,
    48480u, 48433u, 48387u, 48343u, 48300u, 48218u, 48140u, 48067u, 47997u, 47931u, 47867u, 47806u,
    47748u, 47692u, 47639u, 47587u, 47537u, 47489u, 47442u, 47397u, 47353u, 47270u, 47191u, 47116u,
    47045u, 46977u, 46913u, 46851u, 46791u, 46734u, 46680u, 46627u, 46576u, 46527u, 46479u, 46433u,
    46389u, 46304u, 46223u, 46147u, 46074u, 46005u, 45939u, 45876u, 45816u, 45758u, 45702u, 45648u,
    45596u, 45546u, 45497u, 45450u, 45405u, 45318u, 45236u, 45158u, 45084u, 45013u, 44946u, 44882u,
    44820u, 44761u, 44704u, 44649u, 44596u, 44544u, 44495u, 44447u, 44401u, 44312u, 44228u, 44148u,
    44073u, 44001u, 43932u, 43866u, 43803u, 43742u, 43684u, 43628u, 43574u, 43521u, 43471u, 43422u,
    43374u, 43283u, 43198u, 43116u, 43039u, 42965u, 42895u, 42828u, 42763u, 42701u, 42642u, 42584u,
    42529u, 42475u, 42423u, 42373u, 42325u, 42232u, 42144u, 42061u, 41981u, 41906u, 41834u, 41765u,
    41699u, 41636u, 41575u, 41516u, 41459u, 41404u, 41351u, 41300u, 41250u, 41155u, 41065u, 40980u,
    40899u, 40821u, 40747u, 40677u, 40609u, 40544u, 40482u, 40421u, 40363u, 40307u, 40252u, 40200u,
    40149u, 40051u, 39959u, 39871u, 39788u, 39709u, 39633u, 39561u, 39491u, 39424u, 39360u, 39298u,
    39239u, 39181u, 39125u, 39071u, 39019u, 38918u, 38823u, 38734u, 38648u, 38567u, 38489u, 38415u,
    38343u, 38274u, 38208u, 38145u, 38083u, 38024u, 37967u, 37911u, 37857u, 37754u, 37656u, 37564u,
    37476u, 37392u, 37312u, 37236u, 37162u, 37092u, 37024u, 36958u, 36895u, 36834u, 36775u, 36717u,
    36662u, 36556u, 36455u, 36360u, 36269u, 36183u, 36101u, 36022u, 35946u, 35873u, 35803u, 35735u,
    35670u, 35607u, 35546u, 35487u, 35430u, 35320u, 35216u, 35118u, 35025u, 34936u, 34850u, 34769u,
    34690u, 34615u, 34543u, 34473u, 34406u, 34340u, 34277u, 34216u, 34157u, 34044u, 33937u, 33835u,
    33738u, 33646u, 33558u, 33473u, 33392u, 33314u, 33239u, 33167u, 33097u, 33030u, 32965u, 32901u,
    32840u, 32722u, 32611u, 32506u, 32406u, 32310u, 32218u, 32131u, 32047u, 31966u, 31888u, 31813u,
    31741u, 31670u, 31603u, 31537u, 31473u, 31351u, 31236u, 31126u, 31022u, 30922u, 30827u, 30736u,
    30648u, 30564u, 30483u, 30405u, 30330u, 30257u, 30186u, 30117u, 30051u, 29924u, 29803u, 29689u,
    29580u, 29476u, 29377u, 29282u, 29191u, 29103u, 29018u, 28936u, 28858u, 28781u, 28707u, 28636u,
    28566u, 28433u, 28307u, 28188u, 28074u, 27965u, 27861u, 27761u, 27666u, 27573u, 27485u, 27399u,
    27316u, 27236u, 27159u, 27084u, 27011u, 26871u, 26738u, 26613u, 26493u, 26379u, 26269u, 26164u,
    26063u, 25966u, 25873u, 25783u, 25695u, 25611u, 25529u, 25450u, 25373u, 25225u, 25085u, 24953u,
    24826u, 24705u, 24589u, 24478u, 24371u, 24269u, 24170u, 24074u, 23981u, 23892u, 23805u, 23721u,
    23639u, 23482u, 23334u, 23192u, 23058u, 22929u, 22806u, 22687u, 22573u, 22464u, 22358u, 22256u,
    22157u, 22061u, 21969u, 21879u, 21791u, 21623u, 21464u, 21313u, 21168u, 21030u, 20898u, 20770u,
    20648u, 20530u, 20416u, 20306u, 20200u, 20096u, 19996u, 19899u, 19805u, 19623u, 19451u, 19287u,
    19130u, 18980u, 18836u, 18698u, 18565u, 18437u, 18312u, 18192u, 18076u, 17964u, 17854u, 17748u,
    17645u, 17446u, 17257u, 17077u, 16904u, 16739u, 16581u, 16428u, 16281u, 16139u, 16002u, 15869u,
    15740u, 15615u, 15493u, 15375u, 15259u, 15038u, 14827u, 14625u, 14432u, 14246u, 14068u, 13895u,
    13729u, 13569u, 13413u, 13262u, 13115u, 12973u, 12834u, 12699u, 12568u, 12313u, 12071u, 11838u,
    11615u, 11399u, 11192u, 10991u, 10797u, 10609u, 10426u, 10248u, 10075u, 9906u, 9742u, 9581u,
    9424u, 9119u, 8827u, 8546u, 8274u, 8011u, 7756u, 7508u, 7268u, 7033u, 6804u, 6580u,
    6360u, 6146u, 5935u, 5729u, 5525u, 5129u, 4744u, 4370u, 4004u, 3646u, 3295u, 2950u,
    2610u, 2275u, 1943u, 1615u, 1289u, 965u, 642u, 321u, 0u,
};

/* tanh(i / 32) with 15 fraction bits. */
static const uint16_t squash_knots[257] = {
    0u, 1024u, 2045u, 3063u, 4075u, 5079u, 6073u, 7056u, 8025u, 8980u, 9919u, 10840u,
    11743u, 12625u, 13486u, 14326u, 15143u, 15936u, 16706u, 17452u, 18173u, 18870u, 19542u, 20189u,
    20813u, 21411u, 21986u, 22538u, 23066u, 23571u, 24054u, 24516u, 24956u, 25376u, 25776u, 26157u,
    26519u, 26864u, 27191u, 27502u, 27797u, 28076u, 28341u, 28592u, 28830u, 29055u, 29268u, 29470u,
    29660u, 29840u, 30010u, 30170u, 30322u, 30465u, 30600u, 30727u, 30847u, 30960u, 31067u, 31167u,
    31262u, 31351u, 31435u, 31515u, 31589u, 31659u, 31726u, 31788u, 31846u, 31901u, 31953u, 32002u,
    32048u, 32091u, 32132u, 32170u, 32206u, 32240u, 32271u, 32301u, 32329u, 32356u, 32381u, 32404u,
    32426u, 32447u, 32466u, 32484u, 32501u, 32517u, 32532u, 32547u, 32560u, 32573u, 32584u, 32596u,
    32606u, 32616u, 32625u, 32634u, 32642u, 32649u, 32657u, 32663u, 32670u, 32676u, 32681u, 32686u,
    32691u, 32696u, 32700u, 32704u, 32708u, 32712u, 32715u, 32718u, 32721u, 32724u, 32727u, 32729u,
    32732u, 32734u, 32736u, 32738u, 32740u, 32741u, 32743u, 32745u, 32746u, 32747u, 32749u, 32750u,
    32751u, 32752u, 32753u, 32754u, 32755u, 32755u, 32756u, 32757u, 32758u, 32758u, 32759u, 32759u,
    32760u, 32760u, 32761u, 32761u, 32762u, 32762u, 32762u, 32763u, 32763u, 32763u, 32764u, 32764u,
    32764u, 32764u, 32765u, 32765u, 32765u, 32765u, 32765u, 32766u, 32766u, 32766u, 32766u, 32766u,
    32766u, 32766u, 32766u, 32767u, 32767u, 32767u, 32767u, 32767u, 32767u, 32767u, 32767u, 32767u,
    32767u, 32767u, 32767u, 32767u, 32767u, 32767u, 32767u, 32767u, 32767u, 32768u, 32768u, 32768u,
    32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u,
    32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u,
    32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u,
    32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u,
    32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u, 32768u,
    32768u, 32768u, 32768u, 32768u, 32768u,
};

EQRL_CODE int32_t eqrl_normal(uint32_t word)
{
    const uint32_t tail = (word << 1) | 1u; /* 2^32 times the probability of a larger |z| */
    int32_t octave = 31;
    const uint32_t fraction = eqrl_normalise(tail, &octave) & 0x7FFFFFFFu;
    const uint32_t place = (uint32_t)octave * 16u + (fraction >> 27);
    const int32_t here = normal_knots[place];
    const int32_t fall = here - (int32_t)normal_knots[place + 1u];
    const int32_t rest = (int32_t)((fraction >> 11) & 0xFFFFu);
    const int32_t magnitude = here * 8 - ((fall * rest) >> 13);
    const int32_t sign = eqrl_is_negative((int32_t)word);
    return (magnitude ^ sign) - sign;
}

EQRL_CODE int32_t eqrl_squash(int32_t value)
{
    const int32_t sign = eqrl_is_negative(value);
    const int32_t size = (value ^ sign) - sign;
    const int32_t beyond = size - 0x7FFFFF;
    const int32_t magnitude = size - (beyond & ~eqrl_is_negative(beyond));
    const int32_t place = magnitude >> 15;
    const int32_t here = squash_knots[place];
    const int32_t rise = (int32_t)squash_knots[place + 1] - here;
    const int32_t result = here * 32768 + rise * (magnitude & 0x7FFF);
    return (result ^ sign) - sign;
}

/* Whatever sign the factors have: |a| * |b| * 2^(shift - 32), negative where one of them is. */
EQRL_HELPER int32_t signed_product(int32_t a, uint32_t shift_a, int32_t b, uint32_t shift_b)
{
    const int32_t sign_a = eqrl_is_negative(a);
    const int32_t sign_b = eqrl_is_negative(b);
    const uint32_t size_a = (uint32_t)((a ^ sign_a) - sign_a) << shift_a;
    const uint32_t size_b = (uint32_t)((b ^ sign_b) - sign_b) << shift_b;
    const int32_t product = (int32_t)eqrl_high_multiply(size_a, size_b);
    const int32_t sign = sign_a ^ sign_b;
    return (product ^ sign) - sign;
}

EQRL_CODE void eqrl_gaussian_f32(const uint32_t *block, const void *output, uint32_t element_bytes,
                                 const void *log_std, uint32_t log_std_bytes, float *action, uint32_t size,
                                 uint32_t is_squashed, uint32_t *random)
{
    const uint32_t *const spread = block + 9u * size;
    for (uint32_t i = 0; i < size; i++) {
        const uint32_t mean = (uint32_t)eqrl_load(output, element_bytes, (int32_t)i) * block[0] + block[1];
        int32_t deviation = (int32_t)block[2];
        if (log_std != NULL) {
            const int32_t lowest = (int32_t)spread[0];
            const int32_t highest = (int32_t)spread[1];
            const int32_t value = eqrl_clamp(eqrl_load(log_std, log_std_bytes, (int32_t)i), lowest, highest);
            const uint32_t relative = eqrl_exponential(spread + 2, log_std_bytes, (uint32_t)(highest - value));
            const int32_t sign = eqrl_is_negative(deviation);
            const uint32_t magnitude = (uint32_t)((deviation ^ sign) - sign);
            deviation = ((int32_t)eqrl_high_multiply(relative, magnitude) ^ sign) - sign;
        }
        const int32_t normal = eqrl_normal(eqrl_draw_word(random));
        int32_t value = (int32_t)(mean + (uint32_t)signed_product(deviation, 3u, normal, 13u));
        if (is_squashed != 0u) {
            const int32_t squashed = eqrl_squash(value >> (block[3] - 20u));
            value = signed_product(squashed, 1u, (int32_t)block[4], 1u) + (int32_t)block[5];
        }
        const int32_t clipped = eqrl_saturate(value, (int32_t)block[6], (int32_t)block[7]);
        eqrl_store_word(&action[i], eqrl_float_bits(clipped, (int32_t)block[8]));
        block += 9;
    }
}
