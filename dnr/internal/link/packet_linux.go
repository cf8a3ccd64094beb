package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// packetSocket sends and receives IP packets on one interface, independently of the kernel's IP: it needs no address,
// leaves their packets to the host's DHCP clients, and receives also what a firewall drops.
type packetSocket struct {
	file *os.File // non-blocking, so that Close ends receive
	raw  syscall.RawConn
	link State
	buf  []byte
	oob  []byte
}

// OpenIP opens a socket that receives what listenFilter lets through.
func OpenIP(l State) (IPConn, error) {
	// Protocol 0 receives nothing until the filter is there and bind names one.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("a packet socket needs CAP_NET_RAW: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "packet:"+l.Name)
	if err := preparePacketSocket(fd, l); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &packetSocket{
		file: file, raw: raw, link: l, buf: make([]byte, MaxPacket), oob: make([]byte, unix.CmsgSpace(auxdataLength)),
	}, nil
}

func preparePacketSocket(fd int, l State) error {
	filter, err := bpf.Assemble(listenFilter())
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		code[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	program := &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program); err != nil {
		return fmt.Errorf("attach a filter: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return fmt.Errorf("ask for the state of checksums: %w", err)
	}
	// Where IPv6 is off, the interface would not take what is sent to all nodes.
	allNodesMAC := unix.PacketMreq{Ifindex: int32(l.Index), Type: unix.PACKET_MR_MULTICAST, Alen: 6}
	copy(allNodesMAC.Address[:], multicastMAC(AllNodes))
	if len(l.MAC) == 6 {
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &allNodesMAC); err != nil {
			return fmt.Errorf("join all nodes: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: l.Index}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// listenFilter accepts what may be a Router Advertisement or a message to a DHCP client. It is run on packets from
// their IP header on.
func listenFilter() []bpf.Instruction {
	const v6, icmp, udp6, accept, reject = 10, 17, 19, 21, 22
	to := func(target, from int) uint8 { return uint8(target - from - 1) }
	is := func(value uint32, yes, no uint8) bpf.Instruction {
		return bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: yes, SkipFalse: no}
	}
	return []bpf.Instruction{
		0: bpf.LoadExtension{Num: bpf.ExtType},
		1: is(unix.PACKET_OUTGOING, to(reject, 1), 0),
		2: bpf.LoadExtension{Num: bpf.ExtProto},
		3: is(unix.ETH_P_IPV6, to(v6, 3), 0),
		4: is(unix.ETH_P_IP, 0, to(reject, 4)),
		5: bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
		6: is(ProtocolUDP, 0, to(reject, 6)),
		7: bpf.LoadMemShift{Off: 0},          // length of the header
		8: bpf.LoadIndirect{Off: 2, Size: 2}, // destination port; of later fragments, any two octets
		9: is(DHCPv4ClientPort, to(accept, 9), to(reject, 9)),

		v6: bpf.LoadAbsolute{Off: 6, Size: 1}, // next header
		11: is(ProtocolICMPv6, to(icmp, 11), 0),
		12: is(ProtocolUDP, to(udp6, 12), 0),
		// Packets with extension headers are rare, so that all of them are left to ParsePacket.
		13: is(protocolHopByHop, to(accept, 13), 0),
		14: is(protocolRouting, to(accept, 14), 0),
		15: is(ProtocolFragment, to(accept, 15), 0),
		16: is(protocolDestination, to(accept, 16), to(reject, 16)),

		icmp: bpf.LoadAbsolute{Off: IPv6HeaderLength, Size: 1}, // type
		18:   is(TypeRouterAdvertisement, to(accept, 18), to(reject, 18)),

		udp6: bpf.LoadAbsolute{Off: IPv6HeaderLength + 2, Size: 2}, // destination port
		20:   is(DHCPv6ClientPort, to(accept, 20), to(reject, 20)),

		accept: bpf.RetConstant{Val: MaxPacket},
		reject: bpf.RetConstant{Val: 0},
	}
}

// Fields of struct tpacket_auxdata. See packet(7) and linux/if_packet.h.
const (
	auxdataLength = 20
	auxdataStatus = 0  // 4 octets
	auxdataTCI    = 16 // 2 octets
)

// maxVLAN are the bits of a tag's control information that are the number of a VLAN.
const maxVLAN = 0xfff

func (c *packetSocket) Receive() (p IPPacket, err error) {
	for {
		var n, oobn, flags int
		var failure error
		err := c.raw.Read(func(fd uintptr) bool {
			n, oobn, flags, _, failure = unix.Recvmsg(int(fd), c.buf, c.oob, unix.MSG_DONTWAIT)
			return failure != unix.EAGAIN
		})
		if failure == unix.EINTR {
			continue
		}
		if err := errors.Join(err, failure); err != nil {
			return IPPacket{}, fmt.Errorf("receive on %s: %w", c.link.Name, err)
		}
		status, tci := auxdata(c.oob[:oobn])
		tagged := status&unix.TP_STATUS_VLAN_VALID != 0 && tci&maxVLAN != 0
		if flags&unix.MSG_TRUNC != 0 || tagged { // the kernel delivers packets of VLAN interfaces here, too
			continue
		}
		unsummed := status&unix.TP_STATUS_CSUMNOTREADY != 0
		return IPPacket{Data: append([]byte(nil), c.buf[:n]...), Unsummed: unsummed}, nil
	}
}

func auxdata(oob []byte) (status uint32, tci uint16) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= auxdataLength {
			return binary.NativeEndian.Uint32(m.Data[auxdataStatus:]), binary.NativeEndian.Uint16(m.Data[auxdataTCI:])
		}
	}
	return 0, 0
}

// Send sends an IP packet to a group or to all.
func (c *packetSocket) Send(data []byte) error {
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: c.link.Index}
	mac := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if data[0]>>4 == 6 {
		to.Protocol = networkOrder(unix.ETH_P_IPV6)
		mac = multicastMAC(netip.AddrFrom16([16]byte(data[24:])))
	}
	if len(c.link.MAC) == len(mac) {
		to.Halen = uint8(copy(to.Addr[:], mac))
	}
	var failure error
	err := c.raw.Write(func(fd uintptr) bool {
		failure = unix.Sendto(int(fd), data, unix.MSG_DONTWAIT, to)
		return true // a full queue loses the packet, as any link may
	})
	if err := errors.Join(err, failure); err != nil {
		return fmt.Errorf("send on %s: %w", c.link.Name, err)
	}
	return nil
}

func (c *packetSocket) Close() error { return c.file.Close() }

// multicastMAC returns the Ethernet address of an IPv6 group. See RFC 2464, Section 7.
func multicastMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return append(net.HardwareAddr{0x33, 0x33}, b[12:]...)
}

// networkOrder is htons.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
