package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// listing is how a verb that lists things prints them: as a table, one JSON
// object a line, or the names alone.
type listing struct {
	format    string
	quiet     bool
	noHeaders bool
}

func (l *listing) flags(cmd *cobra.Command, quiet string) {
	outputFlag(cmd, &l.format)
	cmd.Flags().BoolVar(&l.noHeaders, "no-headers", false, "no heading line")
	cmd.Flags().BoolVarP(&l.quiet, "quiet", "q", false, quiet)
}

// outputFlag adds -o.
func outputFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "output", "o", "table", "output format: table or json")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// ignored adds a flag of other tools that asks for what is done anyway.
func ignored(flags *pflag.FlagSet, name, shorthand string) {
	flags.BoolP(name, shorthand, false, "accepted and ignored, as other tools have it")
	flags.Lookup(name).Hidden = true
}

func checkFormat(format string) error {
	if format != "table" && format != "json" {
		return usageError{fmt.Errorf("output format %q: want table or json", format)}
	}
	return nil
}

// printer prints the rows of a listing as they come, but for the first of a table,
// which set how wide its columns are.
type printer struct {
	listing
	out   *bufio.Writer
	table table
}

// printer returns a printer of rows with so many cells. The column of a header that
// begins with > has numbers, which are aligned at the right.
func (l *listing) printer(w io.Writer, headers ...string) *printer {
	p := &printer{listing: *l, out: bufio.NewWriter(w)}
	p.table.out = p.out
	headers = slices.Clone(headers)
	for i, h := range headers {
		var right bool
		headers[i], right = strings.CutPrefix(h, ">")
		p.table.right = append(p.table.right, right)
	}
	if l.format == "table" && !l.quiet && !l.noHeaders {
		p.table.add(headers) // held: there is no error yet
	}
	return p
}

// row prints one thing: its id, its value in JSON, and its cells. All may come
// from a guest.
func (p *printer) row(id string, value any, cells ...string) error {
	switch {
	case p.quiet:
		_, err := fmt.Fprintln(p.out, visibleLine(id))
		return quietPipe(err)
	case p.format == "json":
		if err := writeJSON(p.out, value); err != nil {
			return err
		}
		return quietPipe(p.out.Flush())
	default:
		for i := range cells {
			if cells[i] = visibleLine(cells[i]); cells[i] == "" {
				cells[i] = "-"
			}
		}
		return quietPipe(p.table.add(cells))
	}
}

// close prints what is left.
func (p *printer) close() error {
	return quietPipe(p.table.flush())
}

// writeJSON writes a struct as one line. Its texts are cut to maxText in all. Beside
// each that is not UTF-8, which JSON cannot have, stands the same in base64, as
// NAME_base64.
func writeJSON(w io.Writer, value any) error {
	v := reflect.New(reflect.TypeOf(value))
	v.Elem().Set(reflect.ValueOf(value))
	clipAll(v.Interface())
	data, err := json.Marshal(v.Interface())
	if err != nil {
		return err
	}
	if more := rawTexts(v.Elem()); len(more) > 0 {
		extra, err := json.Marshal(more)
		if err != nil {
			return err
		}
		data = append(append(data[:len(data)-1], ','), extra[1:]...)
	}
	_, err = fmt.Fprintf(w, "%s\n", visibleJSON(data))
	return quietPipe(err)
}

// rawTexts returns the fields of a struct whose texts are not UTF-8, as bytes.
func rawTexts(v reflect.Value) map[string]any {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	raw := make(map[string]any)
	for f, field := range v.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		switch text := field.Interface().(type) {
		case string:
			if !utf8.ValidString(text) {
				raw[name+"_base64"] = []byte(text)
			}
		case []string:
			if slices.ContainsFunc(text, func(s string) bool { return !utf8.ValidString(s) }) {
				all := make([][]byte, len(text))
				for i, s := range text {
					all[i] = []byte(s)
				}
				raw[name+"_base64"] = all
			}
		}
	}
	return raw
}

// quietPipe ends host-ctl as SIGPIPE ends others when nobody reads its output.
func quietPipe(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return exitCode(exitSignal + 13)
	}
	return err
}

// size returns a number of bytes for people, with three digits or so.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if f < 10 {
		return fmt.Sprintf("%.1f%c", f, units[i])
	}
	return fmt.Sprintf("%.0f%c", f, units[i])
}

// firstError is a writer that remembers the first error of one, for those who write
// without looking.
type firstError struct {
	w   io.Writer
	err error
}

func (f *firstError) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if f.err == nil {
		f.err = err
	}
	return n, err
}
