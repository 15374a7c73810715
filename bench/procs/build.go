package procs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// moduleLine begins the go.mod of a checkout of the product.
const moduleLine = "module logbroker\n"

// ErrNoCheckout says that the current directory is not in a checkout.
var ErrNoCheckout = errors.New("this is not inside a checkout of logbroker")

// Checkout is the top directory of the checkout that the current directory lies
// in. Error: ErrNoCheckout.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("cannot tell the current directory: %w", err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte(moduleLine)) {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", ErrNoCheckout
		}
		dir = up
	}
}

// Build builds the main package in directory pkg (e.g. "cmd/logbrokerd") of the
// module in directory module ("." or "bench/peers"), both below checkout, into
// the user's cache directory, and returns the binary's path. Every checkout has
// binaries of its own there.
func Build(ctx context.Context, checkout, module, pkg string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for the binary of %s: %w", pkg, err)
	}
	of := sha256.Sum256([]byte(checkout))
	binary := filepath.Join(cache, "logbroker-bench", fmt.Sprintf("%x", of[:6]), filepath.Base(filepath.Join(module, pkg)))
	// The commit is part of the result anyway, and asking for it fails in a
	// checkout that belongs to another user.
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", binary, "./"+pkg)
	build.Dir = filepath.Join(checkout, module)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", pkg, err, lastLine(out))
	}
	return binary, nil
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// GitRef is the commit of a checkout, with -dirty where files were changed;
// "unknown" where git does not tell.
func GitRef(ctx context.Context, checkout string) string {
	git := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")
	git.Dir = checkout
	out, err := git.Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
