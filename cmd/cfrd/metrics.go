package main

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/dnr/announce"
	"github.com/cfrd-project/cfrd/relay"
	"github.com/cfrd-project/cfrd/resolver"
)

// newRegistry returns what /metrics shows. No label ever takes its value from a client: the series are as many as
// there are transports, protocols and configured upstreams.
func newRegistry(n *node) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&collector{take: n.snapshot, families: n.families()},
	)
	return r
}

// collector reads counters that the services keep anyway, once per scrape.
type collector struct {
	take     func() *snapshot
	families []family
}

// family is one metric with all its labels.
type family struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func(s *snapshot, emit emitter)
}

// emitter takes the value of one series, with its label values in the order of the family's names.
type emitter func(value float64, labels ...string)

// snapshot is the state of a node at one time.
type snapshot struct {
	dns                        resolver.Stats
	relay                      relay.Stats
	used4, size4, used6, size6 uint64
	certificate                certs.Stats
	reloads                    [2]uint64 // refused, applied
	ready                      bool
	announce                   []announce.Stats // in the order of the node's announcers
}

func (n *node) snapshot() *snapshot {
	s := &snapshot{reloads: [2]uint64{n.refused.Load(), n.applied.Load()}, ready: len(n.notReady()) == 0}
	if n.dns != nil {
		s.dns = n.dns.Stats()
	}
	if n.relay != nil {
		s.relay = n.relay.Stats()
	}
	if n.addrs != nil {
		s.used4, s.size4, s.used6, s.size6 = n.addrs.Usage()
	}
	s.certificate = n.certs.Stats()
	for _, a := range n.announcers {
		s.announce = append(s.announce, a.Stats())
	}
	return s
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range c.families {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.take()
	for _, f := range c.families {
		f.values(s, func(value float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
		})
	}
}

func counter(name, help string, values func(*snapshot, emitter), labels ...string) family {
	return family{prometheus.NewDesc("cfrd_"+name, help, labels, nil), prometheus.CounterValue, values}
}

func gauge(name, help string, values func(*snapshot, emitter), labels ...string) family {
	return family{prometheus.NewDesc("cfrd_"+name, help, labels, nil), prometheus.GaugeValue, values}
}

// families returns what this node has to tell: a relay alone says nothing about DNS.
func (n *node) families() []family {
	fs := []family{
		gauge("build_info", "Version of cfrd and of Go, always 1.", func(_ *snapshot, emit emitter) {
			emit(1, version(), runtime.Version())
		}, "version", "goversion"),
		gauge("ready", "Whether /readyz says yes.", func(s *snapshot, emit emitter) { emit(truth(s.ready)) }),
		counter("reloads_total", "Reloads of the configuration, by result.", func(s *snapshot, emit emitter) {
			emit(float64(s.reloads[0]), "refused")
			emit(float64(s.reloads[1]), "applied")
		}, "result"),
	}
	if n.certs != nil {
		fs = append(fs, certificateFamilies()...)
	}
	if n.dns != nil {
		fs = append(fs, resolverFamilies()...)
	}
	if len(n.announcers) > 0 {
		fs = append(fs, announceFamilies(n.announcers)...)
	}
	if n.relays() {
		fs = append(fs, relayFamilies()...)
	}
	if n.addrs != nil {
		fs = append(fs, addressFamilies()...)
	}
	return fs
}

// certificateFamilies leaves out the times that there are not.
func certificateFamilies() []family {
	emitTime := func(t time.Time, emit emitter) {
		if !t.IsZero() {
			emit(float64(t.Unix()))
		}
	}
	return []family{
		gauge("certificate_expiry_timestamp_seconds", "When the certificate being served expires.",
			func(s *snapshot, emit emitter) { emitTime(s.certificate.Expiry, emit) }),
		gauge("certificate_renewal_timestamp_seconds", "When the certificate will be renewed, or the next attempt made.",
			func(s *snapshot, emit emitter) { emitTime(s.certificate.Next, emit) }),
		counter("certificate_updates_total", "Attempts to replace the certificate, by result.",
			func(s *snapshot, emit emitter) {
				emit(float64(s.certificate.Refused), "refused")
				emit(float64(s.certificate.Applied), "applied")
			}, "result"),
		gauge("certificate_update_failing", "Whether the newest attempt to replace the certificate failed.",
			func(s *snapshot, emit emitter) { emit(truth(s.certificate.Failing)) }),
	}
}

func resolverFamilies() []family {
	return []family{
		counter("queries_total", "Queries received, by transport.", func(s *snapshot, emit emitter) {
			perTransport(emit, func(t resolver.Transport) float64 { return float64(s.dns.Queries[t]) })
		}, "transport"),
		counter("responses_total", "Responses sent, by RCODE.", func(s *snapshot, emit emitter) {
			for code, n := range s.dns.Responses {
				emit(float64(n), rcodeName(code))
			}
		}, "rcode"),
		counter("cache_hits_total", "Queries answered from the cache.",
			func(s *snapshot, emit emitter) { emit(float64(s.dns.CacheHits)) }),
		counter("cache_misses_total", "Queries that were not in the cache.",
			func(s *snapshot, emit emitter) { emit(float64(s.dns.CacheMisses)) }),
		gauge("cache_bytes", "Memory of cached answers.",
			func(s *snapshot, emit emitter) { emit(float64(s.dns.CacheBytes)) }),
		gauge("cache_entries", "Cached answers.",
			func(s *snapshot, emit emitter) { emit(float64(s.dns.Entries)) }),
		counter("steered_total", "Answers in which an address was replaced by one of the relay.",
			func(s *snapshot, emit emitter) { emit(float64(s.dns.Steered)) }),
		counter("steer_failed_total", "Answers for which the relay could not take a destination.",
			func(s *snapshot, emit emitter) { emit(float64(s.dns.SteerFailed)) }),
		counter("shed_total", "Queries dropped or refused because too many were in flight.",
			func(s *snapshot, emit emitter) { emit(float64(s.dns.Shed)) }),
		gauge("in_flight", "Queries that wait for an upstream.",
			func(s *snapshot, emit emitter) { emit(float64(s.dns.InFlight)) }),
		gauge("connections", "Open connections, by transport.", func(s *snapshot, emit emitter) {
			perTransport(emit, func(t resolver.Transport) float64 { return float64(s.dns.Connections[t]) })
		}, "transport"),
		counter("connections_refused_total", "Connections over a limit, by transport.", func(s *snapshot, emit emitter) {
			perTransport(emit, func(t resolver.Transport) float64 { return float64(s.dns.Refused[t]) })
		}, "transport"),
		counter("upstream_queries_total", "Queries to each upstream.", func(s *snapshot, emit emitter) {
			perUpstream(s, emit, func(u resolver.UpstreamStats) float64 { return float64(u.Queries) })
		}, "upstream"),
		counter("upstream_failures_total", "Queries that an upstream did not answer.", func(s *snapshot, emit emitter) {
			perUpstream(s, emit, func(u resolver.UpstreamStats) float64 { return float64(u.Failures) })
		}, "upstream"),
		gauge("upstream_healthy", "Whether an upstream answers.", func(s *snapshot, emit emitter) {
			perUpstream(s, emit, func(u resolver.UpstreamStats) float64 { return truth(u.Healthy) })
		}, "upstream"),
	}
}

func relayFamilies() []family {
	return []family{
		counter("relay_flows_total", "Flows accepted.", func(s *snapshot, emit emitter) {
			perProtocol(emit, s.relay.Flows)
		}, "protocol"),
		gauge("relay_flows", "Flows that are active.", func(s *snapshot, emit emitter) {
			perProtocol(emit, s.relay.Active)
		}, "protocol"),
		gauge("relay_flows_limit", "The most flows that may be active.", func(s *snapshot, emit emitter) {
			perProtocol(emit, s.relay.Limit)
		}, "protocol"),
		counter("relay_refused_total", "Flows refused: not a client, no such relay address, or no permitted destination.",
			func(s *snapshot, emit emitter) { perProtocol(emit, s.relay.Refused) }, "protocol"),
		counter("relay_over_limit_total", "Flows refused because of a limit.", func(s *snapshot, emit emitter) {
			perProtocol(emit, s.relay.OverLimit)
		}, "protocol"),
		counter("relay_dial_failed_total", "Flows whose destination could not be reached.",
			func(s *snapshot, emit emitter) { perProtocol(emit, s.relay.DialFailed) }, "protocol"),
		counter("relay_sent_bytes_total", "Octets from clients to destinations.", func(s *snapshot, emit emitter) {
			perProtocol(emit, s.relay.BytesOut)
		}, "protocol"),
		counter("relay_received_bytes_total", "Octets from destinations to clients.", func(s *snapshot, emit emitter) {
			perProtocol(emit, s.relay.BytesBack)
		}, "protocol"),
		counter("relay_unconfirmed_total", "UDP datagrams held back from clients that have not shown to be there.",
			func(s *snapshot, emit emitter) { emit(float64(s.relay.Unconfirmed)) }),
	}
}

func addressFamilies() []family {
	return []family{
		gauge("relay_addresses_leased", "Relay addresses of the table that are leased.", func(s *snapshot, emit emitter) {
			emit(float64(s.used4), "ipv4")
			emit(float64(s.used6), "ipv6")
		}, "family"),
		gauge("relay_addresses", "Relay addresses that the table has.", func(s *snapshot, emit emitter) {
			emit(float64(s.size4), "ipv4")
			emit(float64(s.size6), "ipv6")
		}, "family"),
	}
}

func perTransport(emit emitter, value func(resolver.Transport) float64) {
	for t := range resolver.NumTransports {
		emit(value(t), t.String())
	}
}

func perProtocol[T int | uint64](emit emitter, values [2]T) {
	emit(float64(values[0]), "tcp")
	emit(float64(values[1]), "udp")
}

func perUpstream(s *snapshot, emit emitter, value func(resolver.UpstreamStats) float64) {
	for _, u := range s.dns.Upstreams {
		emit(value(u), u.Name)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// rcodeName returns the mnemonic of an RCODE, as far as resolvers send it. See RFC 6895, Section 2.3.
func rcodeName(code int) string {
	names := [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"}
	switch {
	case code < len(names):
		return names[code]
	case code < 16:
		return "RCODE" + strconv.Itoa(code)
	}
	return "extended"
}
