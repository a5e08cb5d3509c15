package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"unicode/utf8"
)

// maxDotenv bounds a file of variables, in bytes.
const maxDotenv = 1 << 20

// readDotenv reads a file of lines
//
//	NAME=value        up to a " #"; white space around it doesn't count
//	NAME='value'      literally
//	NAME="value"      literally too
//
// with `export` before a name, empty lines and # comments. A file that doesn't
// exist has no variables. Nothing is expanded: a $ in a token is a $. What isn't
// of this form is refused, and so is a name that stands twice; the error names
// the line and never repeats what is in it, a secret as likely as not. That is
// why it is written out: the libraries for it expand, let faulty lines pass, and
// repeat them.
func readDotenv(name string) (map[string]string, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // a pipe would be waited for
		return nil, fmt.Errorf("%s: it is no file of NAME=value lines; move it elsewhere", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDotenv+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxDotenv:
		return nil, fmt.Errorf("%s: it has more than %d bytes; it takes NAME=value lines", name, maxDotenv)
	}
	return parseDotenv(name, data)
}

// parseDotenv is readDotenv for text in memory; name stands for the file.
func parseDotenv(name string, data []byte) (map[string]string, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s: it is not UTF-8; save it as UTF-8", name)
	}
	values := map[string]string{}
	text := strings.TrimPrefix(string(data), "\ufeff") // an editor's mark
	for i, line := range strings.Split(text, "\n") {
		key, value, err := dotenvLine(line)
		if _, twice := values[key]; err == nil && twice && key != "" {
			err = errors.New("this name stands in an earlier line already; keep one")
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		if key != "" {
			values[key] = value
		}
	}
	return values, nil
}

// dotenvLine reads one line; a line without a variable has no key.
func dotenvLine(line string) (key, value string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	key, value, found := strings.Cut(strings.TrimPrefix(line, "export "), "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if !found || !isVariable(key) {
		return "", "", errors.New("it is neither empty, a # comment nor NAME=value")
	}
	if value == "" || value[0] != '\'' && value[0] != '"' {
		if comment := strings.Index(" "+value, " #"); comment >= 0 {
			value = strings.TrimSpace((" " + value)[:comment])
		}
		return key, value, nil
	}
	value, rest, closed := strings.Cut(value[1:], value[:1])
	rest = strings.TrimSpace(rest)
	switch {
	case !closed:
		return "", "", errors.New("its quote is not closed in the same line")
	case rest != "" && rest[0] != '#':
		return "", "", errors.New("there is something after the closing quote")
	}
	return key, value, nil
}

// isVariable reports whether s is the name of a variable (POSIX.1-2017 §8.1,
// small letters too).
func isVariable(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
