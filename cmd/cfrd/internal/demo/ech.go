package demo

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
)

// newECHKey makes a key for Encrypted Client Hello and the ECHConfigList that publishes it, with X25519,
// HKDF-SHA256 and AES-128-GCM. See RFC 9849, Section 4.
func newECHKey(id uint8, outerName string) (list []byte, key tls.EncryptedClientHelloKey, err error) {
	const (
		version    = 0xfe0d
		kemX25519  = 0x0020
		kdfSHA256  = 0x0001
		aeadAES128 = 0x0001
		maxNameLen = 64 // names of the demo are shorter; longer ones are padded less well
	)
	priv, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, key, err
	}
	pub := priv.PublicKey().Bytes()
	contents := []byte{id}
	contents = binary.BigEndian.AppendUint16(contents, kemX25519)
	contents = binary.BigEndian.AppendUint16(contents, uint16(len(pub)))
	contents = append(contents, pub...)
	contents = binary.BigEndian.AppendUint16(contents, 4) // octets of cipher suites
	contents = binary.BigEndian.AppendUint16(contents, kdfSHA256)
	contents = binary.BigEndian.AppendUint16(contents, aeadAES128)
	contents = append(contents, maxNameLen, uint8(len(outerName)))
	contents = append(contents, outerName...)
	contents = binary.BigEndian.AppendUint16(contents, 0) // no extensions

	config := binary.BigEndian.AppendUint16(nil, version)
	config = binary.BigEndian.AppendUint16(config, uint16(len(contents)))
	config = append(config, contents...)
	list = binary.BigEndian.AppendUint16(nil, uint16(len(config)))
	list = append(list, config...)
	return list, tls.EncryptedClientHelloKey{Config: config, PrivateKey: priv.Bytes(), SendAsRetry: true}, nil
}
