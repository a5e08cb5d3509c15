package agents

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"postern/shared/model"
	"postern/shared/secret"
)

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
	lines := map[string]int{}
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
		if first, twice := lines[step.name]; twice && step.name != "" {
			return m.at.errorf("this name is already in line %d; choose another", first)
		}
		lines[step.name] = m.at.line
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

func (r *refused) read(_ ast.Node, at spot) error {
	return at.errorf("PraisonAI has this here, Postern doesn't; %s", *r)
}

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
