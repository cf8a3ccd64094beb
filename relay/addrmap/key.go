package addrmap

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// KeySize is the length of SealedConfig.Key in octets.
const KeySize = 32

// maxKeyFile bounds what LoadKey reads, so that a wrong path, such as a device, is an error soon. It leaves room for
// 64 hex digits with white space around them.
const maxKeyFile = 256

// NewKey returns a random key for SealedConfig. Written as 64 hex digits, it is a file for LoadKey.
func NewKey() []byte {
	key := make([]byte, KeySize)
	rand.Read(key)
	return key
}

// LoadKey reads a key file: 64 hex digits with white space around them, or 32 raw octets.
func LoadKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	return key, nil
}

// parseKey reads the content of a key file. Its errors never quote the content.
func parseKey(data []byte) ([]byte, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("longer than %d octets; want 64 hex digits or 32 raw octets", maxKeyFile)
	}
	if len(data) == KeySize {
		return parseRawKey(data)
	}
	text := bytes.TrimSpace(data)
	if len(text) != 2*KeySize {
		return nil, fmt.Errorf("has %d octets; want 64 hex digits or 32 raw octets", len(data))
	}
	key := make([]byte, KeySize)
	if _, err := hex.Decode(key, text); err != nil {
		return nil, errors.New("has 64 characters that are not all hex digits; want 64 hex digits or 32 raw octets")
	}
	return key, checkKey(key)
}

// parseRawKey takes 32 octets as they are, unless they are text: a key of 128 bits in hex or a passphrase of just that
// length would be taken for random octets and be far weaker than it looks.
func parseRawKey(data []byte) ([]byte, error) {
	text := true
	for _, c := range data {
		text = text && (c >= ' ' && c <= '~' || c == '\n' || c == '\r' || c == '\t')
	}
	if text {
		return nil, errors.New("has 32 octets of text; want 64 hex digits or 32 raw octets")
	}
	return bytes.Clone(data), checkKey(data)
}

// checkKey refuses what is certainly not a random key.
func checkKey(key []byte) error {
	if bytes.Count(key, key[:1]) == len(key) {
		return errors.New("has the same octet 32 times; want a random key")
	}
	return nil
}
