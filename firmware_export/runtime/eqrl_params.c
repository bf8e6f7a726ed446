/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_params.c - is this params blob whole, and made for the code that is about to read it? */
#include "eqrl_internal.h"

#define MAGIC 0x50525145u /* "EQRP" in little endian */

uint32_t eqrl_crc32(uint32_t crc, const void *bytes, uint32_t num_bytes)
{
    static const uint32_t of_nibble[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u,
        0x4DB26158u, 0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu,
        0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    const uint8_t *const from = (const uint8_t *)bytes;
    uint32_t value = crc;
    EQRL_ROLLED
    for (uint32_t i = 0; i < num_bytes; i++) {
        value ^= from[i];
        value = (value >> 4) ^ of_nibble[value & 15u];
        value = (value >> 4) ^ of_nibble[value & 15u];
    }
    return value;
}

/* Of a blob without its crc32, reserved and signature. */
static uint32_t checksum(const uint8_t *bytes, uint32_t total_bytes)
{
    const uint8_t *from = bytes;
    uint32_t num_bytes = (uint32_t)offsetof(eqrl_params_header, crc32);
    uint32_t crc = 0xFFFFFFFFu;
    EQRL_ROLLED
    for (uint32_t part = 0; part < 2u; part++) { /* one call, inlined once: 20 bytes less on the M4 */
        crc = eqrl_crc32(crc, from, num_bytes);
        from = bytes + sizeof(eqrl_params_header);
        num_bytes = total_bytes - (uint32_t)sizeof(eqrl_params_header);
    }
    return ~crc;
}

eqrl_status eqrl_params_check(const void *params, uint32_t total_bytes, const uint32_t contract[8])
{
    if (params == NULL || ((uintptr_t)params & 3u) != 0u) {
        return EQRL_ERROR_PARAMS;
    }
    const eqrl_params_header *const header = (const eqrl_params_header *)params;
    if (header->magic != MAGIC || header->abi != EQRL_ABI || header->header_bytes != sizeof *header ||
        header->total_bytes != total_bytes || total_bytes <= sizeof *header) {
        return EQRL_ERROR_PARAMS;
    }
    EQRL_ROLLED
    for (uint32_t i = 0; i < 8u; i++) {
        if (header->contract[i] != contract[i]) {
            return EQRL_ERROR_CONTRACT;
        }
    }
    return header->crc32 == checksum((const uint8_t *)params, total_bytes) ? EQRL_OK : EQRL_ERROR_CRC;
}
