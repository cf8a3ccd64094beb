package announce

import (
	"strings"
	"testing"
	"time"
)

// TestValidate wants everything that is wrong at once, beginning with the setting.
func TestValidate(t *testing.T) {
	tests := map[string]struct {
		cfg  Config
		want []string // the beginning of each error
	}{
		"good":          {Config{Interface: "lan0", RA: true}, nil},
		"bounds":        {Config{Interface: "lan0", RA: true, MaxInterval: shortestMaxInterval}, nil},
		"longest":       {Config{Interface: strings.Repeat("i", longestName), DHCPv4: true, MaxInterval: longestMaxInterval}, nil},
		"zero":          {Config{}, []string{"interface: missing", "announces by no means"}},
		"name":          {Config{Interface: "a b", DHCPv6: true}, []string{`interface: "a b"`}},
		"name-too-long": {Config{Interface: strings.Repeat("i", longestName+1), DHCPv6: true}, []string{"interface: "}},
		"too-often":     {Config{Interface: "lan0", RA: true, MaxInterval: time.Second}, []string{"max_interval: 1s"}},
		"everything":    {Config{Interface: "/", MaxInterval: time.Hour}, []string{"interface: ", "announces by", "max_interval: 1h"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.cfg.Validate()
			if err == nil {
				if test.want != nil {
					t.Errorf("got no error; want %q", test.want)
				}
				return
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.want) {
				t.Fatalf("got %q; want %q", lines, test.want)
			}
			for i, want := range test.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("got %q; want %q at its beginning", lines[i], want)
				}
			}
		})
	}
}
