/// One address or port for another: "10.0.0.1=10.0.0.2", "10.0.0.1:80=10.0.0.2:8080", "[fe80::1]:80=[fe80::2]:80", ":80=:8080".
public struct InetAddressRemap: Equatable, Sendable {
    private struct End: Equatable, Sendable {
        var address: InetAddress?, port: UInt16?
        init?(_ text: Substring) {
            var text = text
            if text.first == "[", let close = text.firstIndex(of: "]") {
                address = InetAddress(text: text[text.index(after: text.startIndex)..<close])
                if address?.family != InetAddress.ipv6 { return nil }
                text = text[text.index(after: close)...]
                if text.isEmpty { return }
            } else if text.filter({ $0 == ":" }).count > 1 {
                address = InetAddress(text: text)
                if address == nil { return nil }
                return
            } else {
                let host = text.prefix { $0 != ":" }
                if !host.isEmpty {
                    address = InetAddress(text: host)
                    if address == nil { return nil }
                }
                text = text[host.endIndex...]
                if text.isEmpty {
                    if address == nil { return nil }
                    return
                }
            }
            guard text.first == ":", let number = UInt16(text.dropFirst()), number > 0 else { return nil }
            port = number
        }
    }
    private let old: End, new: End

    /// Nil when it is none of the forms above, or the two sides do not have the same parts and family.
    public init?(_ text: String) {
        let sides = text.split(separator: "=", omittingEmptySubsequences: false)
        guard sides.count == 2, let old = End(sides[0]), let new = End(sides[1]) else { return nil }
        guard old.address?.family == new.address?.family, (old.port == nil) == (new.port == nil) else { return nil }
        (self.old, self.new) = (old, new)
    }

    /// `address` with what this replaces; any other as it is. IPv4 in an IPv6 socket (::ffff:10.0.0.1) counts as IPv4.
    public func applied(to address: InetAddress) -> InetAddress {
        let plain = address.unmapped, isMapped = plain.family != address.family
        if let wanted = old.address, wanted.bytes != plain.bytes { return address }
        if let wanted = old.port, wanted != plain.port { return address }
        var result = address
        if let bytes = new.address?.bytes { result.bytes = isMapped ? Array(address.bytes.prefix(12)) + bytes : bytes }
        if let port = new.port { result.port = port }
        return result
    }
}
