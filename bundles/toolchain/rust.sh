#!/bin/sh
# Builds a Rust crate to a WebAssembly component (target wasm32-wasip2).
# usage: rust.sh CRATE-FOLDER OUT.wasm
# The compiler is rustup's where that has the target or can fetch it. Otherwise, where apt is, Debian's compiler builds
# the standard library too. Which one it is goes to stderr; FLOWCELL_RUST_TOOLCHAIN=rustup|debian chooses.
set -eu
crate=$(cd "${1:?usage: rust.sh CRATE-FOLDER OUT.wasm}" && pwd)
out=${2:?usage: rust.sh CRATE-FOLDER OUT.wasm}
here=$(cd "$(dirname "$0")" && pwd)
build_cache=${FLOWCELL_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/flowcell/build}
target=wasm32-wasip2

# rustup may list a target whose files are not there, so look for its standard library itself.
has_target() {
  ls "$(rustc --print sysroot)/lib/rustlib/$target/lib/"libstd-*.rlib >/dev/null 2>&1
}

choose() {
  if has_target || { rustup target add $target >/dev/null 2>&1 && has_target; }; then
    echo rustup
  elif command -v apt-get >/dev/null 2>&1; then
    echo debian
  else
    echo "no way to build for $target: rustup cannot fetch it and there is no apt. Try \`rustup target add $target\`" >&2
    return 1
  fi
}

toolchain=${FLOWCELL_RUST_TOOLCHAIN:-$(cd "$crate" && choose)}
case $toolchain in
  rustup)
    has_target || rustup target add $target >&2
    standard_library=
    ;;
  debian)
    . "$here/debian-rust.sh"
    standard_library='-Z build-std=std,panic_abort'
    ;;
  *)
    echo "FLOWCELL_RUST_TOOLCHAIN is '$toolchain'; it can be rustup or debian" >&2
    exit 1
    ;;
esac
echo "$(basename "$crate"): $target with $toolchain's compiler" >&2

# Paths of this machine stay out of the component. One folder per compiler: their objects do not mix.
export CARGO_TARGET_DIR="$build_cache/rust-$toolchain"
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$crate=.$(printf '\037')--remap-path-prefix=$cargo_home=cargo${rust_flags:+$(printf '\037')$rust_flags}"
# shellcheck disable=SC2086  # several words, or none
(cd "$crate" && cargo build --quiet --locked --release --target $target $standard_library)

name=$(sed -n '/^\[package\]/,/^\[/s/^name *= *"\(.*\)"/\1/p' "$crate/Cargo.toml" | tr - _)
cp "$CARGO_TARGET_DIR/$target/release/$name.wasm" "$out"
echo "$(basename "$crate"): $out, $(wc -c <"$out") bytes" >&2
