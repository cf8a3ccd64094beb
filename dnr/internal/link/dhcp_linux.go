package link

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/cfrd-project/cfrd/dnr"
)

// listenDHCP opens the port of a DHCP server on l.
func listenDHCP(l State, network, host string, port int, part string) (*net.UDPConn, error) {
	pc, err := listenOn(l.Name, network, net.JoinHostPort(host, strconv.Itoa(port)))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("UDP port %d needs CAP_NET_BIND_SERVICE: %w", port, err)
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("%w: UDP port %d belongs to a DHCP server of this host: let that one announce the "+
			"resolver, as `cfrd dnr print` shows, and switch %s off here: %w", ErrPortTaken, port, part, err)
	case err != nil:
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// dhcp6Conn is the socket of a DHCPv6 server.
type dhcp6Conn struct {
	pc   *ipv6.PacketConn
	link State
}

// OpenDHCPv6 opens a socket that receives what clients on l send to all servers.
func OpenDHCPv6(l State) (Conn, error) {
	udp, err := listenDHCP(l, "udp6", "::", DHCPv6ServerPort, dnr.DHCPv6.String())
	if err != nil {
		return nil, err
	}
	c := &dhcp6Conn{ipv6.NewPacketConn(udp), l}
	ifi := &net.Interface{Index: l.Index}
	err = errors.Join(
		c.pc.SetControlMessage(ipv6.FlagDst, true),
		c.pc.JoinGroup(ifi, &net.UDPAddr{IP: AllDHCPServers.AsSlice()}),
	)
	if err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	return c, nil
}

func (c *dhcp6Conn) Receive(buf []byte) (Packet, error) {
	n, cm, src, err := c.pc.ReadFrom(buf)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Data: buf[:n]}
	if cm != nil {
		p.To = addrOf(cm.Dst)
	}
	if udp, ok := src.(*net.UDPAddr); ok {
		p.Peer = netip.AddrPortFrom(addrOf(udp.IP), uint16(udp.Port))
	}
	return p, nil
}

func (c *dhcp6Conn) Send(p Packet) error {
	cm := &ipv6.ControlMessage{Src: c.link.LinkLocal.AsSlice(), IfIndex: c.link.Index}
	dst := &net.UDPAddr{IP: p.Peer.Addr().AsSlice(), Port: int(p.Peer.Port()), Zone: c.link.Name}
	_, err := c.pc.WriteTo(p.Data, cm, dst)
	return err
}

func (c *dhcp6Conn) Close() error { return c.pc.Close() }

// dhcp4Conn is the socket of a DHCPv4 server.
type dhcp4Conn struct{ *net.UDPConn }

// OpenDHCPv4 opens a socket that receives what clients on l send.
func OpenDHCPv4(l State) (Conn, error) {
	udp, err := listenDHCP(l, "udp4", "0.0.0.0", DHCPv4ServerPort, dnr.DHCPv4.String())
	if err != nil {
		return nil, err
	}
	return dhcp4Conn{udp}, nil
}

func (c dhcp4Conn) Receive(buf []byte) (Packet, error) {
	n, from, err := c.ReadFromUDPAddrPort(buf)
	return Packet{Peer: netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), Data: buf[:n]}, err
}

func (c dhcp4Conn) Send(p Packet) error {
	_, err := c.WriteToUDPAddrPort(p.Data, p.Peer)
	return err
}
