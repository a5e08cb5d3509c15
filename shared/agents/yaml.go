package agents

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"postern/shared/model"
	"postern/shared/secret"
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

// readable is what a node of the tree can be read into: a Value, a block of
// fields, a list of agents or steps.
type readable interface {
	read(n ast.Node, at spot) error
}

// readFields reads a mapping into the struct behind ptr. An unknown field is
// refused.
func readFields(n ast.Node, at spot, ptr any) error {
	members, err := entries(n, at, "a block of fields")
	if err != nil {
		return err
	}
	own, all, byName := fields(ptr)
	for _, m := range members {
		field, known := byName[m.name]
		if !known {
			return m.at.errorf("unknown field; %s", cure(m.name, all, "known fields are "+strings.Join(own, ", ")))
		}
		if err := field.read(m.value, m.at); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployBlock) read(n ast.Node, at spot) error { return readFields(n, at, d) }

func (d *Deploy) read(n ast.Node, at spot) error {
	d.where = at.String()
	return readFields(n, at, d)
}

func (p *placedText) read(n ast.Node, at spot) error {
	p.at = at
	return p.Value.read(n, at)
}

func (w *workflowBlock) read(n ast.Node, at spot) error { return readFields(n, at, w) }

func (l *agentList) read(n ast.Node, at spot) error {
	members, err := items(n, at, "agents by their names, or a list of agents")
	if err != nil {
		return err
	}
	l.at = at
	for _, m := range members {
		if m.name != "" {
			agent := keyedAgent{agentFields: agentFields{name: m.name, at: m.at}}
			if err := readFields(m.value, m.at, &agent); err != nil {
				return err
			}
			l.all = append(l.all, agent.agentFields)
			continue
		}
		var agent listedAgent
		if err := readFields(m.value, m.at, &agent); err != nil {
			return err
		}
		if !agent.Name.IsSet() {
			return m.at.errorf("has no name; add `name:` and what callers will ask for")
		}
		if err := checkName(agent.Name); err != nil {
			return err
		}
		agent.name, agent.at = agent.Name.V, m.at
		l.all = append(l.all, agent.agentFields)
	}
	return nil
}

func (l *stepList) read(n ast.Node, at spot) error {
	members, err := items(n, at, "a list of steps, or steps by their names")
	if err != nil {
		return err
	}
	if len(members) == 0 {
		return at.errorf("has no steps; add one or delete the line")
	}
	l.at = at
	for _, m := range members {
		step := listedStep{stepFields: stepFields{name: m.name, at: m.at}}
		if m.name != "" {
			err = readFields(m.value, m.at, &step.stepFields)
		} else {
			err = readFields(m.value, m.at, &step)
		}
		if err != nil {
			return err
		}
		if step.Name.IsSet() {
			if err := checkName(step.Name); err != nil {
				return err
			}
			step.name = step.Name.V
		}
		l.all = append(l.all, step.stepFields)
	}
	return nil
}

// read takes texts, numbers and truths, as they are written. Lists and blocks
// are for PraisonAI's loops, which there are not.
func (v *variables) read(n ast.Node, at spot) error {
	members, err := entries(n, at, "variables by their names")
	if err != nil {
		return err
	}
	if len(members) > maxVariables {
		return at.errorf("has more than %d variables", maxVariables)
	}
	v.at, v.texts = at, map[string]string{}
	for _, m := range members {
		if m.name == "input" || m.name == "previous_output" {
			return m.at.errorf("this name has a meaning of its own; choose another")
		}
		switch value := m.value.(type) {
		case *ast.SequenceNode, *ast.MappingNode, *ast.NullNode:
			if err := new(foreign).read(value, m.at); err != nil {
				return err
			}
		case *ast.StringNode:
			v.texts[m.name] = value.Value
		case *ast.LiteralNode:
			v.texts[m.name] = value.Value.Value
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
			v.texts[m.name] = value.GetToken().Value
		default:
			return mismatch(value, m.at, "text")
		}
	}
	return nil
}

func (*foreign) read(n ast.Node, at spot) error {
	plain := plainness{at: at}
	ast.Walk(&plain, n)
	if plain.err == nil {
		at.actsOnNothing()
	}
	return plain.err
}

// plainness visits a value that nothing reads, and finds what no part of the
// file may have.
type plainness struct {
	at  spot
	err error
}

func (p *plainness) Visit(n ast.Node) ast.Visitor {
	at := p.at
	if t := n.GetToken(); t != nil {
		at.line = t.Position.Line
	}
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		p.err = mismatch(n, at, "")
	case *ast.MappingValueNode:
		switch key := n.Key; {
		case key.IsMergeKey():
			p.err = at.badKey(key)
		case key.GetToken().Value == "api_key":
			p.err = at.errorf("has an api_key, and secrets don't belong in this file; delete it")
		}
	}
	if p.err != nil {
		return nil
	}
	return p
}

func (r *refused) read(_ ast.Node, at spot) error { return at.errorf("%s", *r) }

func (v *Value[T]) read(n ast.Node, at spot) error {
	v.Where = at.String()
	switch v := any(&v.V).(type) {
	case *string:
		return readText(n, at, v)
	case *secret.String:
		var text string
		err := readText(n, at, &text)
		*v = secret.New(text)
		return err
	case *model.Name:
		return readModel(n, at, v)
	case *int:
		return readInt(n, at, v)
	case *bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return mismatch(n, at, "true or false")
		}
		*v = b.Value
		return nil
	}
	return at.errorf("can't be read into %T", v.V) // no field has another type
}

func readText(n ast.Node, at spot, text *string) error {
	switch n := n.(type) {
	case *ast.StringNode:
		*text = n.Value
	case *ast.LiteralNode:
		*text = n.Value.Value
	default:
		return mismatch(n, at, "text")
	}
	if strings.TrimSpace(*text) == "" {
		return at.errorf("is empty; write something or delete the line")
	}
	return nil
}

func readModel(n ast.Node, at spot, name *model.Name) error {
	if _, ok := n.(*ast.MappingNode); ok {
		var block modelBlock
		if err := readFields(n, at, &block); err != nil {
			return err
		}
		if !block.Model.IsSet() {
			return at.errorf("has no model; add `model:` and its name, or write the name alone")
		}
		return parseModel(block.Model.V, block.Model.Where, name)
	}
	var text string
	if err := readText(n, at, &text); err != nil {
		return err
	}
	return parseModel(text, at.String(), name)
}

func parseModel(text, where string, name *model.Name) error {
	parsed, err := model.ParseName(text)
	if err != nil { // which repeats the text
		return fmt.Errorf("%s: is no model's name; write provider/name without spaces, for example offline/eliza", where)
	}
	*name = parsed
	return nil
}

func readInt(n ast.Node, at spot, i *int) error {
	number, ok := n.(*ast.IntegerNode)
	if !ok {
		return mismatch(n, at, "a whole number")
	}
	var err error
	if *i, err = strconv.Atoi(fmt.Sprint(number.Value)); err != nil {
		return at.errorf("is too large a number")
	}
	return nil
}

// mismatch is the error of a node that is not of the wanted kind.
func mismatch(n ast.Node, at spot, want string) error {
	var got string
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		return at.errorf("anchors and aliases (& and *) are not supported; write the value itself, in quotes if it begins so")
	case *ast.TagNode:
		return at.errorf("tags (!) are not supported; delete it, or put quotes around a text that begins so")
	case *ast.NullNode:
		return at.errorf("must be %s, but nothing is here; write it or delete the line", want)
	case *ast.StringNode, *ast.LiteralNode:
		got = "text"
	case *ast.IntegerNode:
		got = "a whole number"
	case *ast.BoolNode:
		got = "true or false"
	case *ast.SequenceNode:
		got = "a list"
	case *ast.MappingNode:
		got = "a block of fields"
	default:
		got = "a decimal number" // floats, .inf and .nan are all that is left
	}
	if _, scalar := n.(ast.ScalarNode); scalar && want == "text" {
		got += "; put quotes around it"
	}
	return at.errorf("must be %s, not %s", want, got)
}

// items are the entries of a mapping, or the items of a list, which have no
// names; want says what the node is.
func items(n ast.Node, at spot, want string) ([]entry, error) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		return entries(n, at, want)
	}
	var all []entry
	for i, value := range list.Values {
		all = append(all, entry{"", at.item(i, value.GetToken().Position.Line), value})
	}
	return all, nil
}

// entry is one key of a mapping and what stands behind it.
type entry struct {
	name  string
	at    spot
	value ast.Node
}

// entries returns a mapping's entries in order; want says what the mapping is.
// Every key is a name by validName and occurs once.
func entries(n ast.Node, at spot, want string) ([]entry, error) {
	mapping, ok := n.(*ast.MappingNode)
	if !ok {
		return nil, mismatch(n, at, want)
	}
	var all []entry
	lines := map[string]int{}
	for _, v := range mapping.Values {
		key := v.Key.GetToken()
		name, line := key.Value, key.Position.Line
		if _, scalar := v.Key.(ast.ScalarNode); !scalar || !validName(name) {
			at.line = line
			return nil, at.badKey(v.Key)
		}
		e := entry{name, at.child(name, line), v.Value}
		if first, twice := lines[name]; twice {
			return nil, e.at.errorf("is written twice, first in line %d; keep one", first)
		}
		lines[name] = line
		all = append(all, e)
	}
	return all, nil
}

func (s spot) badKey(key ast.MapKeyNode) error {
	if key.IsMergeKey() {
		return s.errorf("merge keys (<<) are not supported; write the fields themselves")
	}
	return s.errorf("a key here is no name; %s", nameRule)
}

const nameRule = "a name has 1 to 64 letters, digits, spaces, or . _ - and begins with a letter or a digit"

// validName is the rule for agents' names, in any script, and so for all keys:
// what passes can stand in an error, a path and a log line as it is.
func validName(s string) bool {
	if n := utf8.RuneCountInString(s); n < 1 || n > 64 {
		return false
	}
	for i, r := range s {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r):
		case i > 0 && (strings.ContainsRune(" ._-", r) || unicode.IsMark(r)): // a mark belongs to the letter before it
		default:
			return false
		}
	}
	return !strings.HasSuffix(s, " ")
}

// checkName refuses a field that is to be a name and is none.
func checkName(field Value[string]) error {
	if !validName(field.V) {
		return fmt.Errorf("%s: is no name; %s", field.Where, nameRule)
	}
	return nil
}

// cure says how to mend a name that is none of the known; without a likely one,
// in the words of otherwise.
func cure(unknown string, known []string, otherwise string) string {
	nearest := slices.MinFunc(known, func(a, b string) int {
		return distance(unknown, a) - distance(unknown, b)
	})
	if distance(unknown, nearest) <= len(nearest)/3 {
		return fmt.Sprintf("did you mean %q?", nearest)
	}
	return otherwise
}

// distance counts the slips of the hand that make b of a: a byte inserted,
// left out or wrong, or two exchanged (Damerau 1964). Case doesn't count.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	d := make([][]int, len(a)+1) // d[i][j] is the distance of a[:i] and b[:j]
	for i := range d {
		d[i] = make([]int, len(b)+1)
		for j := range d[i] {
			if i == 0 || j == 0 {
				d[i][j] = i + j
				continue
			}
			wrong := d[i-1][j-1]
			if a[i-1] != b[j-1] {
				wrong++
			}
			d[i][j] = min(wrong, d[i-1][j]+1, d[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
