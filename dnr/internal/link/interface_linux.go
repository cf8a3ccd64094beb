package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Look returns the state of the interface called name. That there is none is no error.
func Look(name string) (State, error) {
	l := State{Name: name}
	link, err := netlink.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("look for interface: %w", err)
	}
	attrs := link.Attrs()
	if attrs.Name != name {
		return l, nil // an alternative name, to which sockets cannot be bound
	}
	l.Index, l.MTU, l.MAC = attrs.Index, attrs.MTU, attrs.HardwareAddr
	l.Up, l.Carrier = attrs.RawFlags&unix.IFF_UP != 0, attrs.RawFlags&unix.IFF_RUNNING != 0
	// Without this file there is no IPv6 either.
	forwarding, _ := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "forwarding"))
	l.Forwards = strings.TrimSpace(string(forwarding)) == "1"
	addrs, err := addresses(link)
	if err != nil {
		return l, fmt.Errorf("look for addresses: %w", err)
	}
	for _, a := range addrs {
		l.addAddress(a)
	}
	return l, nil
}

// Addresses asks again if the addresses change while they are listed.
func addresses(link netlink.Link) (addrs []netlink.Addr, err error) {
	for range 5 {
		if addrs, err = netlink.AddrList(link, netlink.FAMILY_ALL); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return addrs, err
		}
	}
	return addrs, nil // the change is an event that makes Watch call Look again
}

// addAddress adds an address that can be used. See RFC 4862, Section 5.4.
func (l *State) addAddress(a netlink.Addr) {
	const unfit = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY
	addr, ok := netip.AddrFromSlice(a.IP)
	if !ok || a.Flags&unfit != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0 {
		return
	}
	addr = addr.Unmap()
	ones, _ := a.Mask.Size()
	switch {
	case !addr.IsLinkLocalUnicast():
		l.Addresses = append(l.Addresses, netip.PrefixFrom(addr, ones))
	case addr.Is6() && !l.LinkLocal.IsValid():
		l.LinkLocal = addr
	}
}

// settle is for how long changes of interfaces and addresses are collected, because they come in bursts.
const settle = 50 * time.Millisecond

// Watch calls changed with the state of the interface called name at the beginning and after every change of an
// interface or address of this host, until ctx is done. It calls from its own goroutine.
func Watch(ctx context.Context, name string, changed func(State)) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	events, failed := make(chan struct{}, 1), make(chan error, 1)
	go func() { failed <- readEvents(s, events) }()
	defer func() { s.Close(); <-failed }()
	for {
		l, err := Look(name)
		if err != nil {
			return err
		}
		changed(l)
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			failed <- err // for the deferred function
			return fmt.Errorf("netlink: %w", err)
		case <-events:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
	}
}

// readEvents writes to events, which has a capacity of 1, after each change, until s is closed.
func readEvents(s *nl.NetlinkSocket, events chan<- struct{}) error {
	for {
		// A message that was lost for lack of memory stands for a change, too.
		if _, _, err := s.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case events <- struct{}{}:
		default:
		}
	}
}

// listenOn opens a socket that is bound to one interface, after it has called each set for it.
func listenOn(device, network, address string, set ...func(fd int) error) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var errs []error
		errs = append(errs, c.Control(func(fd uintptr) {
			errs = append(errs, unix.BindToDevice(int(fd), device))
			for _, f := range set {
				errs = append(errs, f(int(fd)))
			}
		}))
		return errors.Join(errs...)
	}}
	return lc.ListenPacket(context.Background(), network, address)
}
