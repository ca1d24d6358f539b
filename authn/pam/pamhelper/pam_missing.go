//go:build !(cgo && pam)

package pamhelper

import "time"

// Available tells whether this binary can speak to PAM.
const Available = false

// runWorker cannot be reached: Main has returned ErrMissing before.
func runWorker(string, time.Duration) error { return ErrMissing }
