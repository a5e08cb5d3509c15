package agents

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The YAML parser's time grows with the square of a file's keys and of its
// depth: 64 KiB of "[" cost it 16 s, of keys 0.7 s. (Its lexer's is linear.)
// Each node keeps its whole path, so depth costs memory by the square, too.
// These bounds keep the worst 1 MiB near a second. A thousand agents of four
// fields have 15,000 tokens.
const (
	maxTokens = 20_000
	maxDepth  = 16 // brackets, and dashes in one line; the format needs 6
)

// spot is a place in the file, and how an error begins.
type spot struct {
	file string
	line int    // 1 is the first; 0: the file as a whole
	path string // "agents.sumfrench.llm"; empty: the top level

	idle *[]spot // the fields so far that nothing acts on; one list for all spots of a file
}

func (s spot) String() string {
	text := s.file
	if strings.ContainsFunc(text, unicode.IsControl) {
		text = strconv.Quote(text) // an error is one line, whatever the path
	}
	if s.line > 0 {
		text += ":" + strconv.Itoa(s.line)
	}
	if s.path != "" {
		text += ": " + s.path
	}
	return text
}

func (s spot) errorf(format string, args ...any) error {
	return errors.New(s.String() + ": " + fmt.Sprintf(format, args...))
}

// child is the spot of the field name in the given line.
func (s spot) child(name string, line int) spot {
	if s.path != "" {
		name = s.path + "." + name
	}
	return spot{s.file, line, name, s.idle}
}

// item is the spot of the i-th item of the list here.
func (s spot) item(i, line int) spot {
	return spot{s.file, line, fmt.Sprintf("%s[%d]", s.path, i), s.idle}
}

// isSet reports whether the spot is one in the file.
func (s spot) isSet() bool { return s.line > 0 }

// actsOnNothing has File.Warnings name the field here.
func (s spot) actsOnNothing() { *s.idle = append(*s.idle, s) }

// parseYAML returns the tree of the one document in data.
func parseYAML(data []byte, at spot) (root ast.Node, err error) {
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	if err := checkText(data, at); err != nil {
		return nil, err
	}

	// The library is fuzzed, by its authors and by us, and still a YAML parser
	// of 7,000 lines: a panic on odd input must not take the process along.
	defer func() {
		if recover() != nil {
			root, err = nil, at.errorf("is not valid YAML")
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if err := checkTokens(tokens, at); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // entries finds duplicates, and says it better
	if err != nil {
		return nil, syntaxError(err, data, at)
	}
	switch {
	case len(file.Docs) > 1:
		at.line = file.Docs[1].Start.Position.Line
		return nil, at.errorf("a second YAML document begins here; keep one, without `---` between")
	case len(file.Docs) == 0 || file.Docs[0].Body == nil:
		return nil, at.errorf("is empty; run `postern init` for a sample")
	}
	return file.Docs[0].Body, nil
}

// checkText refuses what is no text in UTF-8, or too much of it.
func checkText(data []byte, at spot) error {
	if len(data) > maxSize {
		return at.errorf("is larger than 1 MiB, the most that an agents file may have")
	}
	if bytes.HasPrefix(data, []byte("\ufeff")) {
		return at.errorf("begins with a byte order mark; save it as UTF-8 without BOM")
	}
	at.line = 1
	for rest := data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			return at.errorf("is not UTF-8; save the file as UTF-8")
		case r == '\n':
			at.line++
		case r != '\t' && unicode.IsControl(r):
			return at.errorf("has the control character %U; delete it", r)
		}
		rest = rest[size:]
	}
	return nil
}

// checkTokens bounds what the parser will do, and refuses directives, which it
// would take for documents.
func checkTokens(tokens token.Tokens, at spot) error {
	if len(tokens) > maxTokens {
		return at.errorf("has more than %d YAML tokens; split it over several deployments", maxTokens)
	}
	brackets, dashes := 0, 0
	for _, t := range tokens {
		if t.Position.Line != at.line {
			at.line, dashes = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets = max(brackets-1, 0)
		case token.SequenceEntryType, token.MappingKeyType:
			dashes++
		case token.DirectiveType:
			return at.errorf("directives (%%) are not supported; delete the line")
		}
		if brackets+dashes > maxDepth {
			return at.errorf("is nested more than %d deep", maxDepth)
		}
	}
	return nil
}

// syntaxError turns the library's error into one line. Only those of its
// messages are kept that quote nothing from the file.
func syntaxError(err error, data []byte, at spot) error {
	var located interface {
		GetMessage() string
		GetToken() *token.Token
	}
	if !errors.As(err, &located) || located.GetToken() == nil {
		return at.errorf("is not valid YAML")
	}
	at.line = located.GetToken().Position.Line
	says := located.GetMessage()
	switch {
	case tabIndents(data, at.line):
		return at.errorf("a tab stands in the indentation; use spaces")
	case strings.Contains(says, "mapping value is not allowed"):
		return at.errorf("wrong indentation, or a second `: ` in one line; put quotes around a text that has one")
	case strings.Contains(says, "reserved character"):
		return at.errorf("a text can't begin with @ or a backquote; put quotes around it")
	case strings.Contains(says, "unknown escape character"):
		return at.errorf(`unknown escape after \ in double quotes; use single quotes, or write \\`)
	}
	says, _, _ = strings.Cut(says, `"`)
	return at.errorf("is not valid YAML: %s", strings.TrimRight(says, ": "))
}

// tabIndents reports whether a tab is among the blanks that begin the line.
func tabIndents(data []byte, line int) bool {
	for range line - 1 {
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	indent := data[:len(data)-len(bytes.TrimLeft(data, " \t"))]
	return bytes.ContainsRune(indent, '\t')
}
