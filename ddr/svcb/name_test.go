package svcb

import (
	"errors"
	"testing"
)

func TestNames(t *testing.T) {
	wire, err := AppendName([]byte("x"), `a\.b.example`)
	if err != nil || string(wire) != "x\x03a.b\x07example\x00" {
		t.Fatalf("got %q, %v", wire, err)
	}
	if name, n, err := ParseName(append(wire[1:], "rest"...)); name != `a\.b.example.` || n != 13 || err != nil {
		t.Errorf("got %q of %d octets, %v; want what was written", name, n, err)
	}
	if _, err := AppendName(nil, "a..b"); !errors.Is(err, ErrTargetName) {
		t.Errorf("empty label: got %v; want %v", err, ErrTargetName)
	}
	for name, ok := range map[string]bool{
		"dns.isp.example": true, "DNS.isp.example.": true, "dns": false, ".": false, "": false, "a_b.example": false,
		"-a.example": false, "resolver.arpa": false, "*.example": false, "dns.exämple": false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: got %v", name, err)
		}
	}
}
