import Cryptography
import Linux
import Testing

private func bytes(_ digits: String) -> [UInt8] {
    let digits = Array(digits.filter(\.isHexDigit))
    return stride(from: 0, to: digits.count, by: 2).map { UInt8(String(digits[$0..<($0 + 2)]), radix: 16)! }
}

@Suite("keys") struct SymmetricKeyTests {
    /// RFC 5869, appendix A.
    @Test(
        "come out of keys as RFC 5869 says",
        arguments: [
            (
                [UInt8](repeating: 0x0b, count: 22), Array(0...12) as [UInt8], Array(0xf0...0xf9) as [UInt8],
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
            ),
            (
                Array(0...0x4f), Array(0x60...0xaf), Array(0xb0...0xff),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
            ),
            ([UInt8](repeating: 0x0b, count: 22), [], [], "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
        ] as [([UInt8], [UInt8], [UInt8], String)])
    func derived(secret: [UInt8], salt: [UInt8], info: [UInt8], expected: String) {
        let expected = bytes(expected)
        #expect(HKDF.sha256(secret, salt: salt, info: info, count: expected.count) == expected)
    }

    private struct Vector { let key, nonce, context, content, sealed: String }
    /// McGrew and Viega, The Galois/Counter Mode of Operation, test cases 13, 14 and 16.
    private static let vectors = [
        Vector(key: String(repeating: "0", count: 64), nonce: String(repeating: "0", count: 24), context: "", content: "", sealed: "530f8afbc74536b9a963b4f1c4cb738b"),
        Vector(
            key: String(repeating: "0", count: 64), nonce: String(repeating: "0", count: 24), context: "", content: String(repeating: "0", count: 32),
            sealed: "cea7403d4d606b6e074ec5d3baf39d18 d0d1c8a799996bf0265b98b5d48ab919"),
        Vector(
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", nonce: "cafebabefacedbaddecaf888", context: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            content: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            sealed: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662 76fc6ece0f4e1768cddf8853bb2d551b"),
    ]

    @Test("seal and open as AES-256-GCM is written down", arguments: 0..<3) func sealed(number: Int) throws {
        let vector = Self.vectors[number], key = try #require(SymmetricKey(bytes(vector.key)))
        let content = bytes(vector.content), nonce = bytes(vector.nonce), context = bytes(vector.context), sealed = bytes(vector.sealed)
        #expect(key.seal(content, nonce: nonce, context: context) == sealed)
        #expect(key.open(sealed, nonce: nonce, context: context) == content)
        for place in sealed.indices {
            var changed = sealed
            changed[place] ^= 1
            #expect(key.open(changed, nonce: nonce, context: context) == nil)
        }
        #expect(key.open(Array(sealed.dropLast()), nonce: nonce, context: context) == nil)
        #expect(key.open(sealed, nonce: nonce, context: context + [0]) == nil)
        #expect(SymmetricKey().open(sealed, nonce: nonce, context: context) == nil)
    }

    @Test("seal buffers as they do arrays", arguments: [0, 1, 4096, 262144]) func buffers(length: Int) {
        let key = SymmetricKey(), nonce = Random.bytes(12), content = (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let plain = PageBuffer(length + 1), sealed = PageBuffer(length + 16), opened = PageBuffer(length + 1)
        plain.append(content)
        key.seal(plain, into: sealed, nonce: nonce)
        #expect(sealed.bytes(0..<sealed.count) == key.seal(content, nonce: nonce))
        #expect(key.open(sealed, into: opened, nonce: nonce) && opened.bytes(0..<opened.count) == content)
        #expect(!SymmetricKey().open(sealed, into: opened, nonce: nonce) && opened.count == 0)
    }
}
