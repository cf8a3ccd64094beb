package addrmap

import "testing"

// openTest opens a map and closes it when the test ends.
func openTest(t testing.TB, cfg Config) *Map {
	t.Helper()
	m, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}
