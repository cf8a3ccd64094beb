package resolver

import (
	"context"
	"crypto/tls"
	"net"
)

// newDoT returns DNS over TLS on ln. A client need not offer ALPN: RFC 7858 has none, RFC 7301 came to it later.
func newDoT(f *frontend, ln *net.TCPListener, conf *tls.Config) *streams {
	return &streams{frontend: f, ln: &listener{ln, f, DoT}, tls: withProtos(conf, "dot")}
}

// withProtos returns conf for a listener that speaks protos. Each listener has its own: a shared one that the next
// listener changes would offer the wrong protocol.
func withProtos(conf *tls.Config, protos ...string) *tls.Config {
	conf = conf.Clone()
	conf.NextProtos = protos
	return conf
}

// handshake ends in the time that a message may take, or when kill is done.
func (s *streams) handshake(kill context.Context, c net.Conn) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(kill, s.limits.ReadTimeout)
	defer cancel()
	tc := tls.Server(c, s.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return tc, nil
}
