package resolver

import "context"

// lookup resolves a question beside the client's own, through the cache and the upstreams, and returns the
// unsteered reply in wire form. name is fully qualified, in lower case.
type lookup func(ctx context.Context, name string, qtype uint16) ([]byte, error)

// steerer applies a Steering to replies.
type steerer struct {
	Steering
}

// apply returns what a client that may use the relay gets instead of reply, a complete message from an upstream. It
// never changes reply; steered is false if out is reply itself. An error means that the relay cannot take a
// destination and OnFailure is FailServfail.
func (s *steerer) apply(ctx context.Context, reply []byte, beside lookup) (out []byte, steered bool, err error) {
	return reply, false, nil
}
