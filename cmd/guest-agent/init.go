//go:build linux

package main

import (
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/internal/pid1"
	"github.com/vsockrpc/vsockrpc/internal/reap"
	"github.com/vsockrpc/vsockrpc/internal/system"
)

// endGrace is how long processes may take to end after SIGTERM, before the
// machine ends without them.
const endGrace = 5 * time.Second

// runInit is the life of the first process of a machine. It returns only where
// the kernel does not let it end the machine.
func runInit(s *settings, settingsErr error) int {
	pid1.UseConsole()
	s.init = true
	d := newDaemon(s)
	signal.Notify(make(chan os.Signal, 1), unix.SIGQUIT) // would end the process
	how := pid1.Reboot
	func() {
		defer func() {
			if p := recover(); p != nil {
				d.log.Error("panic", "value", p, "stack", string(debug.Stack()))
			}
		}()
		if settingsErr != nil && !errors.Is(settingsErr, flag.ErrHelp) {
			d.log.Error("some settings are wrong and left out", "err", oneLine(settingsErr))
		}
		if err := pid1.CatchCtrlAltDel(); err != nil {
			d.log.Warn("set up the guest", "err", err)
		}
		sig, err := d.run()
		if err != nil {
			d.log.Error("guest-agent ends", "err", err)
			return
		}
		how = howToEnd(sig)
	}()
	return endMachine(how, d.log)
}

// howToEnd tells what a signal to the first process means. The kernel sends
// SIGINT for ctrl-alt-del.
func howToEnd(sig os.Signal) pid1.How {
	if sig == unix.SIGINT {
		return pid1.Reboot
	}
	return pid1.PowerOff
}

// endMachine ends all processes and then the machine.
func endMachine(how pid1.How, log *slog.Logger) int {
	log.Info("ending the machine", "how", how.String())
	if reaper, err := reap.Start(log); err == nil {
		defer reaper.Close()
	}
	pid1.EndProcesses(endGrace, log)
	if how == pid1.PowerOff && system.ReadVMM("/") == system.Firecracker {
		how = pid1.Reboot // the only way out: Firecracker has no power to switch off
	}
	log.Error("the machine did not end", "err", pid1.EndMachine(how, log))
	return exitFailure
}

// setupGuest does what a guest needs before its first service.
func setupGuest(log *slog.Logger) {
	os.Chdir("/")
	unix.Umask(0o022)
	report := func(err error) {
		if err != nil {
			log.Warn("set up the guest", "err", err)
		}
	}
	report(pid1.Mount("/"))
	report(pid1.SetHostname("/"))
	report(pid1.LoopbackUp())
	loaded, err := pid1.LoadModules("/", system.Read("/").KernelRelease, system.KernelArgs("/"))
	report(err)
	log.Info("guest is set up", "modules", loaded)
}
