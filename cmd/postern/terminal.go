package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"postern/shared/secret"
)

// What is asked for at a terminal: a token, which isn't shown, and a yes or no.

var (
	errNobody = errors.New("there is no terminal to ask at")
	errAbort  = errors.New("interrupted")
)

// askHidden asks for a secret, and switches the terminal's echo off meanwhile.
// For that it calls stty, which POSIX has; where there is none, nothing is asked.
func askHidden(question string) (secret.String, error) {
	if !terminal(os.Stdin) {
		return secret.String{}, errNobody
	}
	before, err := stty("-g")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return secret.String{}, errors.New("without the program stty this terminal would show it")
	case err != nil: // /dev/null passes for a terminal
		return secret.String{}, errNobody
	}
	if _, err := stty("-echo"); err != nil {
		return secret.String{}, fmt.Errorf("this terminal would show it (%w)", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	defer stty(before)

	fmt.Fprint(os.Stderr, question)
	defer fmt.Fprintln(os.Stderr) // the user's line break isn't shown either
	type line struct {
		text string
		err  error
	}
	typed := make(chan line, 1)
	go func() {
		text, err := readLine(os.Stdin)
		typed <- line{text, err}
	}()
	select {
	case l := <-typed:
		return secret.New(strings.TrimSpace(l.text)), l.err
	case <-signals:
		return secret.String{}, errAbort
	}
}

// stty sets or asks for the settings of the terminal that is standard input.
func stty(setting string) (string, error) {
	cmd := exec.Command("stty", setting)
	cmd.Stdin = os.Stdin
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// confirm asks for a yes, unless it was said before. Anything else, and nobody to
// ask, is an error.
func confirm(question string, yes bool) error {
	if yes {
		return nil
	}
	fmt.Fprint(os.Stderr, question+" [y/N] ")
	err := errNobody
	var text string
	if terminal(os.Stdin) {
		text, err = readLine(os.Stdin)
	}
	if err != nil { // of a terminal too, which /dev/null passes for
		fmt.Fprintln(os.Stderr)
		return fmt.Errorf("nothing was changed: %w; --yes says that it is meant", errNobody)
	}
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed")
}

// maxLine bounds what is typed, in bytes.
const maxLine = 4 << 10

// readLine reads up to a line break, and nothing beyond it: the next question has
// its own answer.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var one [1]byte
	for len(line) < maxLine {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return string(line), nil
		}
		line = append(line, one[0])
	}
	return "", fmt.Errorf("more than %d characters in one line", maxLine)
}
