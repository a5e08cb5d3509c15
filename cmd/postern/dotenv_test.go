package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDotenv(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, text string
		want       map[string]string
		fault      string // "": none
	}{
		{"nothing", "", map[string]string{}, ""},
		{"a variable", "A=b", map[string]string{"A": "b"}, ""},
		{"white space and Windows' line ends", " A = b c \r\n\r\nB=\r\n", map[string]string{"A": "b c", "B": ""}, ""},
		{"comments", "# A=b\nA=b # c\nB=b#c\nC='b # c' # d\nD= # e", map[string]string{"A": "b", "B": "b#c", "C": "b # c", "D": ""}, ""},
		{"quotes keep what is in them", `A='$b "c" \\n'` + "\n" + `B="$b 'c' \\n"`, map[string]string{"A": `$b "c" \\n`, "B": `$b 'c' \\n`}, ""},
		{"a $ is a $", "A=ab$CD${E}f", map[string]string{"A": "ab$CD${E}f"}, ""},
		{"an = in a value", "A=b=c==", map[string]string{"A": "b=c=="}, ""},
		{"export", "export A=b", map[string]string{"A": "b"}, ""},
		{"an editor's mark", "\ufeffA=b", map[string]string{"A": "b"}, ""},

		{"no =", "A=b\nCANARY", nil, ":2: it is neither"},
		{"no name", "=CANARY", nil, ":1: it is neither"},
		{"a space in a name", "A B=CANARY", nil, ":1: it is neither"},
		{"a colon", "A: CANARY", nil, ":1: it is neither"},
		{"a digit first", "1A=CANARY", nil, ":1: it is neither"},
		{"a name twice", "A=b\n\nA=CANARY", nil, ":3: this name stands"},
		{"an open quote", "A=\"CANARY\nB=\"", nil, ":1: its quote"},
		{"something after a quote", "A='CANARY'x", nil, ":1: there is something after"},
		{"bytes that are no UTF-8", "A=CANARY\xff", nil, "not UTF-8"},
		{"more than 1 MiB", "A=" + strings.Repeat("CANARY", 200_000), nil, "more than"},
	} {
		file := filepath.Join(t.TempDir(), ".env")
		if err := os.WriteFile(file, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readDotenv(file)
		switch {
		case row.fault == "" && (err != nil || !maps.Equal(got, row.want)):
			t.Errorf("%s: %v, %v; want %v", row.name, got, err, row.want)
		case row.fault != "" && (err == nil || !strings.Contains(err.Error(), row.fault) || strings.Contains(err.Error(), "CANARY")):
			t.Errorf("%s: %v, want %q and no canary (P4)", row.name, err, row.fault)
		}
	}
	if got, err := readDotenv(filepath.Join(t.TempDir(), "none")); len(got) != 0 || err != nil {
		t.Errorf("no file: %v, %v", got, err)
	}
	if _, err := readDotenv(os.DevNull); err == nil || !strings.Contains(err.Error(), "no file of") {
		t.Errorf("a device: %v", err)
	}
}
