package zones

import (
	"net/netip"
	"strings"
	"testing"
)

// TestRuleValidate wants everything that is wrong with a rule.
func TestRuleValidate(t *testing.T) {
	tests := map[string]struct {
		rule Rule
		want string // a line for each error; of a line only its beginning
	}{
		"good":       {Rule{Suffixes: []string{"cdn.example"}, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, ""},
		"ech":        {Rule{ECH: true}, ""},
		"nothing":    {Rule{Pass: true}, "matches nothing"},
		"everything": {Rule{Suffixes: []string{"", "cdn.example", "*.a.example"}, Prefixes: []netip.Prefix{{}}}, "suffixes[0]: \nsuffixes[2]: \nprefixes[0]: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.rule.Validate()
			if (err == nil) != (test.want == "") {
				t.Fatalf("got %v; want %q", err, test.want)
			}
			if err == nil {
				return
			}
			got := strings.Split(err.Error(), "\n")
			want := strings.Split(test.want, "\n")
			if len(got) != len(want) {
				t.Fatalf("got %q; want %q", got, want)
			}
			for i := range want {
				if !strings.HasPrefix(got[i], want[i]) {
					t.Errorf("got %q; want %q at its beginning", got[i], want[i])
				}
			}
		})
	}
}
