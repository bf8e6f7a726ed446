import pytest

from edgeqrl.errors import BoardFitError
from firmware_export.build import compile_firmware
from firmware_export.fit import FirmwareSizes, estimate_sizes, estimate_us, require_fits, timing_model
from tests.firmware import ALL_BOARDS, board, firmware, policy, sources


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (FirmwareSizes(2 * 1024 * 1024 + 1, 0, 0), "flash: 2,097,153 bytes needed, 2,097,152 there"),
        (FirmwareSizes(0, 270_000, 337), "RAM: 270,000 bytes and 337 of stack needed, 270,336 there"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(sizes: FirmwareSizes, said: str) -> None:
    with pytest.raises(BoardFitError, match=said):
        require_fits(sizes, board("rpi-pico"))


def test_what_fills_the_board_exactly_fits() -> None:
    require_fits(FirmwareSizes(2 * 1024 * 1024, 270_000, 336), board("rpi-pico"))


@pytest.mark.parametrize("name", ALL_BOARDS)
def test_estimate_before_compiling_is_above_the_image(name: str) -> None:
    from firmware_export.emit.arena import plan_arena
    from firmware_export.emit.params import build_params

    state_bytes = 4 + plan_arena(policy().network).total_bytes
    estimate = estimate_sizes(len(build_params(policy())), state_bytes, board(name))
    sizes = firmware(name).sizes
    golden_bytes = len(firmware(name).bin) - len(compile_firmware(sources(), board(name)).bin)
    assert estimate.flash_bytes >= sizes.flash_bytes - golden_bytes
    assert estimate.stack_bytes >= sizes.stack_bytes


def test_estimated_time_names_its_model_and_scales() -> None:
    pico = board("rpi-pico")
    assert estimate_us(1000, pico) == pytest.approx(12.0)
    assert timing_model(pico).name == "1.5 cycles an instruction, no wait states"
