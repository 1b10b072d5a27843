package system

import (
	"path/filepath"
	"strings"
)

// KernelArg is one word of the kernel's command line, NAME or NAME=VALUE.
type KernelArg struct{ Name, Value string }

// KernelArgs returns the kernel's command line of the machine whose file
// system root is given, usually "/". What follows "--" is for init and left
// out.
func KernelArgs(root string) []KernelArg {
	return ParseKernelArgs(string(readFile(filepath.Join(root, "proc/cmdline"))))
}

// ParseKernelArgs splits a command line as the kernel does: at spaces that are
// not within double quotes, and quotes around a value or around the whole word
// are taken off (lib/cmdline.c, next_arg).
func ParseKernelArgs(line string) []KernelArg {
	var args []KernelArg
	for line = strings.TrimLeft(line, " \t\n"); line != ""; line = strings.TrimLeft(line, " \t\n") {
		end, quoted := 0, false
		for end < len(line) && (quoted || !strings.ContainsRune(" \t\n", rune(line[end]))) {
			if line[end] == '"' {
				quoted = !quoted
			}
			end++
		}
		word := line[:end]
		line = line[end:]
		if word == "--" {
			break
		}
		if strings.HasPrefix(word, `"`) {
			word = strings.TrimSuffix(word[1:], `"`)
		}
		name, value, _ := strings.Cut(word, "=")
		if strings.HasPrefix(value, `"`) {
			value = strings.TrimSuffix(value[1:], `"`)
		}
		args = append(args, KernelArg{name, value})
	}
	return args
}
