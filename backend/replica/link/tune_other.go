//go:build !linux

package link

import "net"

// tune leaves the kernel's defaults.
func tune(net.Conn) {}
