#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# sysroots.sh FOLDER: libcrypto for i386 and s390x, as Debian packages unpacked below FOLDER/<architecture>.
# Uses a package state of its own: neither the system's architectures nor its packages change.
set -eu
folder=$1
for architecture in i386 s390x; do
    root=$folder/$architecture
    [ -e "$root/done" ] && continue
    rm -rf "$root"
    mkdir -p "$root/apt/state/lists/partial" "$root/apt/cache/archives/partial" "$root/packages"
    : > "$root/apt/status"
    root=$(cd "$root" && pwd)
    options="-o Dir::State=$root/apt/state -o Dir::State::status=$root/apt/status -o Dir::Cache=$root/apt/cache
        -o APT::Architecture=$architecture -o APT::Architectures=$architecture -o APT::Sandbox::User=root"
    # shellcheck disable=SC2086 # a list of options
    apt-get -qq $options update || echo 'sysroots: some indexes are missing; going on with the others' >&2
    # shellcheck disable=SC2086
    (cd "$root/packages" && apt-get -qq $options download libssl3 libssl-dev)
    for package in "$root"/packages/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
    rm -rf "$root/apt"
    : > "$root/done"
done
