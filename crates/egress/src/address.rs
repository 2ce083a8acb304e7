//! Which addresses are everybody's.

use std::net::{IpAddr, Ipv4Addr};

/// Whether an address is reachable for everybody: no private, local, shared or special range (the registries of RFC 6890), nor
/// one of IPv6 that holds an address of IPv4 which is none (RFC 4291, 6052, 3056, 4380).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => {
            if let Some(mapped) = address.to_ipv4() {
                return is_public_v4(mapped);
            }
            let [first, second, ..] = address.segments();
            // Global unicast; without documentation, 6to4, Teredo, ORCHID and translation, which hide other addresses or mean
            // nothing to others.
            (0x2000..0x4000).contains(&first)
                && first != 0x2002
                && first != 0x3fff
                && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        // What was for 6to4's relays.
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19)))
}
