//go:build linux

package main

import (
	"context"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// notify tells the service manager how the agent does (sd_notify(3)). Without
// a service manager it does nothing.
func notify(log *slog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("notify the service manager", "state", state, "err", err)
	}
}

// watchdog tells the service manager that the agent is alive, twice as often as
// asked for, as long as alive says so, until ctx is done.
func watchdog(ctx context.Context, log *slog.Logger, alive func(context.Context) error) {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the service manager's watchdog", "err", err)
	}
	if err != nil || interval <= 0 {
		return
	}
	for ticker := time.NewTicker(interval / 2); ; {
		checked, cancel := context.WithTimeout(ctx, interval/2)
		err := alive(checked)
		cancel()
		if err != nil {
			log.Error("the agent does not answer its own health check", "err", err)
		} else {
			notify(log, sd.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			ticker.Stop()
			return
		case <-ticker.C:
		}
	}
}
