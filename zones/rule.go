package zones

import (
	"errors"
	"fmt"
)

var errMatchesNothing = errors.New(`matches nothing; give it suffixes (["."] for every name), prefixes or ech`)

// Validate returns everything for which NewPolicy would refuse r, joined, or nil. Errors begin with the place within
// the rule, such as "suffixes[0]: ", unless they are about the rule as a whole.
func (r Rule) Validate() error {
	if len(r.Suffixes) == 0 && len(r.Prefixes) == 0 && !r.ECH {
		return errMatchesNothing
	}
	var errs []error
	for i, s := range r.Suffixes {
		if _, err := canonicalSuffix(s); err != nil {
			errs = append(errs, fmt.Errorf("suffixes[%d]: %q %w", i, s, err))
		}
	}
	if err := checkPrefixes(r.Prefixes); err != nil {
		errs = append(errs, fmt.Errorf("prefixes%w", err))
	}
	return errors.Join(errs...)
}
