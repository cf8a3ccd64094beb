package resolver

import "context"

// resolverHandler is the handler behind every listener.
type resolverHandler struct {
	cfg *Config
}

// newHandler validates the part of cfg that answers depend on.
func newHandler(cfg *Config) (*resolverHandler, error) {
	return &resolverHandler{cfg: cfg}, nil
}

// run keeps the upstreams until ctx is done.
func (h *resolverHandler) run(ctx context.Context) error { <-ctx.Done(); return nil }

// update replaces the settings. On an error the old ones stay.
func (h *resolverHandler) update(set Settings) error { return nil }

// stats adds the counters of the handler to s.
func (h *resolverHandler) stats(s *Stats) {}

func (h *resolverHandler) answerNow(q *query, dst []byte) ([]byte, outcome) { return dst, pending }

func (h *resolverHandler) answer(ctx context.Context, q *query, dst []byte) []byte { return dst }
