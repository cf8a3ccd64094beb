package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/cfrd-project/cfrd/ddr"
)

// pvdCaching lets clients keep the information for much less time than it is valid, so that it is still valid when it
// comes from a client's own cache. Shared caches must not keep it, because only clients that may use the relay get to
// know of it.
const pvdCaching = "private, max-age=3600"

// servePvD answers what comes to the DoH listeners and is not DoH: the additional information of the provisioning
// domain with the resolver's name, and else nothing. See RFC 8801, Section 4.1.
//
// It answers every client, also those that may not ask the resolver, as a web server would: hosts fetch it before they
// know whether they may. What it says is public in the DNS anyway, but for the relay, which only its clients get to see.
func (n *node) servePvD(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != ddr.PvDPath {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	pvd, ok := n.discovery.Load().PvD(requestAddrs(r))
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := json.Marshal(pvd)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", ddr.PvDMediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", pvdCaching)
	_, _ = w.Write(body) // an error means that the client closed the connection
}

// requestAddrs returns where a request came from and which of our addresses it came to; zero values if unknown.
func requestAddrs(r *http.Request) (client, local netip.Addr) {
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		client = ap.Addr()
	}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			local = ap.Addr()
		}
	}
	return client, local
}
