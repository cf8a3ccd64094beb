package addrmap

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadKey(t *testing.T) {
	key := NewKey()
	digits := hex.EncodeToString(key)
	for _, tt := range []struct {
		name    string
		content string
		want    string // of the error, or nothing
	}{
		{"hex", digits, ""},
		{"hex-upper-case", strings.ToUpper(digits), ""},
		{"hex-with-newline", digits + "\n", ""},
		{"hex-with-windows-newline-and-spaces", "  " + digits + "\r\n", ""},
		{"raw", string(key), ""},
		{"empty", "", "has 0 octets"},
		{"hex-too-short", digits[:62], "has 62 octets"},
		{"hex-too-long", digits + "00", "has 66 octets"},
		{"hex-of-128-bits", digits[:32], "32 octets of text"},
		{"passphrase", "correct horse battery staple 123", "32 octets of text"},
		{"not-hex", "g" + digits[1:], "not all hex digits"},
		{"raw-too-long", string(key) + "\x80", "has 33 octets"},
		{"raw-zeros", strings.Repeat("\x00", 32), "the same octet"},
		{"hex-zeros", strings.Repeat("00", 32), "the same octet"},
		{"large", strings.Repeat("00", 1<<16), "longer than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seal.key")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := LoadKey(path)
			if tt.want != "" {
				wantError(t, err, path, tt.want)
				if tt.content != "" && strings.Contains(err.Error(), tt.content) {
					t.Errorf("error %q quotes the key", err)
				}
				return
			}
			if err != nil || !bytes.Equal(got, key) {
				t.Errorf("got %x, %v; want %x", got, err, key)
			}
		})
	}
}

func TestLoadKeyPaths(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, path, want string }{
		{"missing", filepath.Join(dir, "none"), "no such file"},
		{"directory", dir, "is a directory"},
		{"endless-device", "/dev/zero", "longer than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := LoadKey(tt.path)
			wantError(t, err, tt.path, tt.want)
		})
	}
}

func TestNewKey(t *testing.T) {
	a, b := NewKey(), NewKey()
	if len(a) != KeySize || bytes.Equal(a, b) {
		t.Errorf("got %x and %x; want two keys of %d octets", a, b, KeySize)
	}
}

// FuzzLoadKey checks that whatever is accepted is one of the two forms of the key.
func FuzzLoadKey(f *testing.F) {
	f.Add([]byte("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"))
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f0123456789abcdef"))
	f.Add([]byte("00112233445566778899aabbccddeeff"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := parseKey(data)
		if err != nil {
			return
		}
		raw := bytes.Equal(key, data)
		text := strings.EqualFold(hex.EncodeToString(key), string(bytes.TrimSpace(data)))
		if len(key) != KeySize || raw == text {
			t.Fatalf("parseKey(%q): got %x; raw %v, hex %v", data, key, raw, text)
		}
		again, err := parseKey([]byte(hex.EncodeToString(key)))
		if err != nil || !bytes.Equal(again, key) {
			t.Fatalf("parseKey in hex: got %x, %v; want %x", again, err, key)
		}
	})
}
