# Stands in for the Pico SDK: what a project and the exported folder use of it.
macro(pico_sdk_init)
    add_library(pico_stdlib INTERFACE)
    target_sources(pico_stdlib INTERFACE "${PICO_STAND_IN}/pico_stdlib.c")
    target_include_directories(pico_stdlib INTERFACE "${PICO_STAND_IN}")
    target_compile_definitions(pico_stdlib INTERFACE PICO_ON_DEVICE_FLAG=1)
endmacro()

function(pico_add_extra_outputs target)
endfunction()
