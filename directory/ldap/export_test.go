package ldap

import "time"

// WithCheapFailures returns the configuration with another bound on how long a
// failure may take that costs a caller nothing: a busy machine takes its time.
func (c Config) WithCheapFailures(within time.Duration) Config {
	c.cheapFailure = within
	return c
}
