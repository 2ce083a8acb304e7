# To be sourced (after `build_cache` is set): Debian's Rust compiler, unpacked without installing it, for machines whose
# rustup cannot fetch a target. Debian has no standard library built for WASI 0.2, but its source and WASI's C library.
# The linkers (rust-lld, wasm-component-ld) are those of rustup's own toolchain.
debian=$build_cache/debian-rust
if [ ! -e "$debian/complete" ]; then
  echo "debian-rust: unpacking Debian's compiler into $debian" >&2
  rm -rf "$debian" && mkdir -p "$debian"
  (
    cd "$debian"
    candidate() { apt-cache policy rustc-web | sed -n 's/ *Candidate: \([0-9]*\.[0-9]*\).*/\1/p'; }
    version=$(candidate)
    if [ -z "$version" ]; then
      # A new machine has no package lists yet.
      apt-get update -qq >&2
      version=$(candidate)
    fi
    if [ -z "$version" ]; then
      echo "debian-rust: apt knows no package rustc-web, which Debian 12 and later have" >&2
      exit 1
    fi
    apt-get download -qq rustc-web "libstd-rust-web-$version" libstd-rust-web-dev rust-web-src wasi-libc \
      "$(apt-cache depends rustc-web "libstd-rust-web-$version" | sed -n 's/.*Depends: \(libllvm[0-9]*\)$/\1/p' | head -n 1)" >&2
    for package in ./*.deb; do dpkg -x "$package" root; done
    rm -f ./*.deb
  )
  touch "$debian/complete"
fi
toolchain_linkers=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
libraries=$debian/root/usr/lib/$(uname -m)-linux-gnu
for llvm in "$debian"/root/usr/lib/llvm-*/lib; do libraries=$libraries:$llvm; done
export RUSTC="$debian/root/usr/bin/rustc" RUSTC_BOOTSTRAP=1
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PATH="$toolchain_linkers:$toolchain_linkers/gcc-ld:$PATH"
rust_flags=-L$debian/root/usr/lib/wasm32-wasi
