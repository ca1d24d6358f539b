package testenv

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end the program when the thread that starts it
// does: a test binary that panics or runs out of time ends nothing itself.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
