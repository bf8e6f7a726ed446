#!/usr/bin/env bash
# A root of Debian for 64-bit Arm and the wheels that a Raspberry Pi would install, to run under qemu-aarch64.
# make_arm64.sh PYTHON FOLDER
# LiteRT crashes under QEMU 7.2 of Debian 12, so a newer qemu-user is unpacked from backports, not installed.
set -euo pipefail
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
target=$2
rm -rf "$target.part"
mkdir -p "$target.part/apt/parts" "$target.part/apt/lists/partial" "$target.part/apt/cache/archives/partial"
target_part=$(realpath "$target.part")
cd "$target_part"

cat > apt/parts/backports.sources <<SOURCES
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
apt=(apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$PWD/apt/parts"
  -o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache")
"${apt[@]}" update
"${apt[@]}" download qemu-user
dpkg-deb -x qemu-user_*.deb qemu
rm -rf apt qemu-user_*.deb

mode=unshare
[ "$(id -u)" -eq 0 ] && mode=root
mmdebstrap --quiet --variant=extract --mode=$mode --arch=arm64 --skip=check/qemu \
  --include=python3,libstdc++6,zlib1g bookworm root 2>/dev/null

wheels() { # folder, platform, packages
  local place=$1 platform=$2
  shift 2
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 \
    --platform "$platform" --dest "$place.wheels" "$@" 2>/dev/null
}
wheels litert manylinux_2_27_aarch64 ai-edge-litert==2.3.0
wheels litert manylinux2014_aarch64 "numpy==1.26.4"
wheels tflite-runtime manylinux_2_34_aarch64 tflite-runtime==2.14.0
wheels tflite-runtime manylinux2014_aarch64 "numpy==1.26.4"
for place in litert tflite-runtime; do
  for wheel in "$place".wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$place"
  done
  rm -rf "$place.wheels"
done
cd - >/dev/null
rm -rf "$target"
mv "$target.part" "$target"
