//go:build !linux

package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
)

func serveDevice(context.Context, *deviceOptions, fs.FileMode, int, *slog.Logger) error {
	return errors.New("vsock-device needs Linux")
}
