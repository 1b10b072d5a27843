package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/vsockrpc/vsockrpc/transport/vsockdev"
)

const (
	// A device that lives less than deviceYouth has failed to start; after
	// maxDeaths of those in a row the keeper gives up.
	deviceYouth = time.Second
	maxDeaths   = 20
)

// keepDevice runs one device process after the other until ctx ends. At SIGHUP
// it replaces the one that runs, by the program as it is then.
func keepDevice(ctx context.Context, o *deviceOptions, log *slog.Logger, sockets ...*os.File) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	keeper, err := vsockdev.NewKeeper()
	if err != nil {
		return err
	}
	defer keeper.Close()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for deaths := 0; ; {
		started := time.Now()
		err := oneDevice(ctx, program, o, keeper, hup, sockets)
		switch {
		case ctx.Err() != nil:
			return nil
		case time.Since(started) > deviceYouth:
			deaths = 0
		default:
			deaths++
		}
		if deaths == maxDeaths {
			return fmt.Errorf("the device does not stay alive: %w", err)
		}
		if err != nil {
			log.Warn("the device process ended; the next goes on with its VM", "err", err)
		}
	}
}

// oneDevice runs a device process until it ends, ctx ends or a signal asks for
// the next. A process that ends because of those is no error.
func oneDevice(ctx context.Context, program string, o *deviceOptions, keeper *vsockdev.Keeper, next <-chan os.Signal, sockets []*os.File) error {
	file, serve, err := keeper.Connect()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, o.args()...)
	cmd.Env = append(os.Environ(), envDevice+"=1")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = append([]*os.File{file}, sockets...)
	err = cmd.Start()
	file.Close()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_ = serve() // ends with the process, which says why
		ended <- cmd.Wait()
	}()
	select {
	case err = <-ended:
		if err == nil {
			err = fmt.Errorf("exit code 0")
		}
		return err
	case <-ctx.Done():
	case <-next:
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		_ = cmd.Process.Kill()
		<-ended
	}
	return nil
}

// args are the arguments of the device process.
func (o *deviceOptions) args() []string {
	args := []string{"vsock-device", "--cid", strconv.FormatUint(uint64(o.cid), 10), "--socket", o.socket, "--uds", o.uds}
	if o.verbose {
		args = append(args, "--verbose")
	}
	return args
}
