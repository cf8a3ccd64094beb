package demo

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// tcpPair is one established TCP connection as one of its ends sees it.
type tcpPair struct {
	local, remote netip.AddrPort
}

// listTCP returns the established IPv4 connections of this network namespace. The demo reads the kernel's list,
// because the relay itself does not reveal which client is connected to which destination.
func listTCP() ([]tcpPair, error) {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseProcTCP(bufio.NewScanner(f))
}

// parseProcTCP reads the format of /proc/net/tcp: a heading, then one socket a line, with the addresses in
// hexadecimal in the byte order of the machine. See proc_pid_net(5).
func parseProcTCP(sc *bufio.Scanner) ([]tcpPair, error) {
	const established = "01"
	var pairs []tcpPair
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 4 || f[3] != established {
			continue
		}
		local, err1 := parseProcAddr(f[1])
		remote, err2 := parseProcAddr(f[2])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		pairs = append(pairs, tcpPair{local: local, remote: remote})
	}
	return pairs, sc.Err()
}

// parseProcAddr reads an IPv4 address and a port, both in hexadecimal, the address in the byte order of the machine.
func parseProcAddr(s string) (netip.AddrPort, error) {
	addr, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(addr)
	if err != nil || !ok || len(raw) != 4 {
		return netip.AddrPort{}, fmt.Errorf("socket address %q: not eight hexadecimal digits, a colon and a port", s)
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("socket address %q: %w", s, err)
	}
	var a [4]byte
	binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(raw))
	return netip.AddrPortFrom(netip.AddrFrom4(a), uint16(p)), nil
}
