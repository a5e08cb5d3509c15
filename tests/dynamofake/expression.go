package dynamofake

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// expressions reads a request's expressions (Developer Guide, "Using expressions
// in DynamoDB"), of which it knows
//
//	conditions  OR, AND, NOT, parentheses, = <> < <= > >=, BETWEEN,
//	            attribute_exists, attribute_not_exists
//	updates     SET name = :value, REMOVE name, ADD name :number
//
// over whole attributes. Names and values that are missing, or that stand in no
// expression, are errors as in DynamoDB. Reserved words are not.
type expressions struct {
	in     *request
	used   map[string]bool // placeholders
	tokens []string
}

func newExpressions(in *request) *expressions {
	return &expressions{in: in, used: map[string]bool{}}
}

// finish fails on placeholders that stood in no expression.
func (e *expressions) finish() error {
	defined := slices.AppendSeq(slices.Collect(maps.Keys(e.in.ExpressionAttributeNames)), maps.Keys(e.in.ExpressionAttributeValues))
	for _, name := range defined {
		if !e.used[name] {
			return fmt.Errorf("%s is unused in expressions", name)
		}
	}
	return nil
}

var token = regexp.MustCompile(`^\s*([#:]?[A-Za-z_][A-Za-z0-9_]*|<>|<=|>=|[()=<>,])`)

func (e *expressions) begin(text string) error {
	e.tokens = nil
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		m := token.FindStringSubmatch(text)
		if m == nil {
			return fmt.Errorf("unknown in an expression: %s", text)
		}
		e.tokens = append(e.tokens, m[1])
		text = text[len(m[0]):]
	}
	return nil
}

// peek is the next token, or "" at the end.
func (e *expressions) peek() string {
	if len(e.tokens) == 0 {
		return ""
	}
	return e.tokens[0]
}

func (e *expressions) next() string {
	t := e.peek()
	e.tokens = e.tokens[min(1, len(e.tokens)):]
	return t
}

// accept takes the next token if it is t. Keywords may be in either case.
func (e *expressions) accept(t string) bool {
	if !strings.EqualFold(e.peek(), t) {
		return false
	}
	e.next()
	return true
}

func (e *expressions) expect(t string) error {
	if got := e.peek(); !e.accept(t) {
		return fmt.Errorf("%q where %q should stand", got, t)
	}
	return nil
}

// predicate is a condition, over an item or nil.
type predicate func(item) bool

func (e *expressions) condition(text string) (predicate, error) {
	if err := e.begin(text); err != nil {
		return nil, err
	}
	p, err := e.or()
	if err == nil && e.peek() != "" {
		err = fmt.Errorf("%q follows a condition", e.peek())
	}
	return p, err
}

func (e *expressions) or() (predicate, error) {
	left, err := e.and()
	for err == nil && e.accept("OR") {
		var right predicate
		before := left
		right, err = e.and()
		left = func(i item) bool { return before(i) || right(i) }
	}
	return left, err
}

func (e *expressions) and() (predicate, error) {
	left, err := e.not()
	for err == nil && e.accept("AND") {
		var right predicate
		before := left
		right, err = e.not()
		left = func(i item) bool { return before(i) && right(i) }
	}
	return left, err
}

func (e *expressions) not() (predicate, error) {
	if e.accept("NOT") {
		p, err := e.not()
		return func(i item) bool { return !p(i) }, err
	}
	if e.accept("(") {
		p, err := e.or()
		if err != nil {
			return nil, err
		}
		return p, e.expect(")")
	}
	if f := e.peek(); f == "attribute_exists" || f == "attribute_not_exists" {
		e.next()
		if err := e.expect("("); err != nil {
			return nil, err
		}
		name, err := e.name()
		if err != nil {
			return nil, err
		}
		return func(i item) bool { _, there := i[name]; return there == (f == "attribute_exists") }, e.expect(")")
	}
	return e.comparison()
}

func (e *expressions) comparison() (predicate, error) {
	left, err := e.operand()
	if err != nil {
		return nil, err
	}
	comparator := strings.ToUpper(e.next())
	right, err := e.operand()
	if err != nil {
		return nil, err
	}
	if comparator == "BETWEEN" {
		if err := e.expect("AND"); err != nil {
			return nil, err
		}
		high, err := e.operand()
		if err != nil {
			return nil, err
		}
		if low, high := right(nil), high(nil); low != nil && high != nil && compare(low, high) > 0 {
			return nil, errors.New("the BETWEEN operator requires upper bound to be greater than or equal to lower bound")
		}
		return func(i item) bool { return holds(left(i), ">=", right(i)) && holds(left(i), "<=", high(i)) }, nil
	}
	if !slices.Contains([]string{"=", "<>", "<", "<=", ">", ">="}, comparator) {
		return nil, fmt.Errorf("%q is no comparator", comparator)
	}
	return func(i item) bool { return holds(left(i), comparator, right(i)) }, nil
}

// holds says whether a comparison does. With an attribute that is missing, or
// between types, only <> does.
func holds(a *value, comparator string, b *value) bool {
	if a == nil || b == nil || (a.S == nil) != (b.S == nil) || (a.N == nil) != (b.N == nil) {
		return comparator == "<>"
	}
	c := compare(a, b)
	switch comparator {
	case "=":
		return c == 0
	case "<>":
		return c != 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	default:
		return c >= 0
	}
}

func compare(a, b *value) int {
	switch {
	case a.S != nil && b.S != nil:
		return strings.Compare(*a.S, *b.S)
	case a.N != nil && b.N != nil:
		return a.number().Cmp(b.number())
	case a.B != nil && b.B != nil:
		return bytes.Compare(*a.B, *b.B)
	}
	return 0
}

// operand is an attribute, or a value of the request; nil: there is none.
func (e *expressions) operand() (func(item) *value, error) {
	if strings.HasPrefix(e.peek(), ":") {
		v, err := e.value()
		return func(item) *value { return &v }, err
	}
	name, err := e.name()
	return func(i item) *value {
		if v, there := i[name]; there {
			return &v
		}
		return nil
	}, err
}

func (e *expressions) value() (value, error) {
	placeholder := e.next()
	v, defined := e.in.ExpressionAttributeValues[placeholder]
	if !defined || !strings.HasPrefix(placeholder, ":") {
		return value{}, fmt.Errorf("%q is no value that is defined", placeholder)
	}
	e.used[placeholder] = true
	_, err := v.check()
	return v, err
}

var bareName = regexp.MustCompile(`^[A-Za-z_]`)

func (e *expressions) name() (string, error) {
	placeholder := e.next()
	if bareName.MatchString(placeholder) {
		return placeholder, nil
	}
	name, defined := e.in.ExpressionAttributeNames[placeholder]
	if !defined {
		return "", fmt.Errorf("%q is no name that is defined", placeholder)
	}
	e.used[placeholder] = true
	return name, nil
}

var keyShape = regexp.MustCompile(`^\s*pk\s*=\s*(:\w+)\s*(?:AND\s+sk\s*(?:=|<|<=|>|>=)\s*:\w+\s*)?$`)

// keyCondition reads a query's: the whole partition key, and a part of the sort
// keys.
func (e *expressions) keyCondition(text string) (partition string, within predicate, err error) {
	m := keyShape.FindStringSubmatch(text)
	if m == nil {
		return "", nil, fmt.Errorf("no key condition that is known here: %s", text)
	}
	within, err = e.condition(text)
	if err != nil {
		return "", nil, err
	}
	for name, v := range e.in.ExpressionAttributeValues {
		if v.S == nil || *v.S == "" {
			return "", nil, fmt.Errorf("%s: a key is a string that isn't empty", name)
		}
	}
	return *e.in.ExpressionAttributeValues[m[1]].S, within, nil
}

// update reads an UpdateExpression. Its function changes an item.
func (e *expressions) update(text string) (func(item) error, error) {
	if err := e.begin(text); err != nil {
		return nil, err
	}
	touched, clauses := map[string]bool{}, map[string]bool{}
	var actions []func(item) error
	for e.peek() != "" {
		clause := strings.ToUpper(e.next())
		if clauses[clause] {
			return nil, fmt.Errorf("the %q section can only be used once", clause)
		}
		clauses[clause] = true
		for more := true; more; more = e.accept(",") {
			name, err := e.name()
			if err != nil {
				return nil, err
			}
			if touched[name] || name == "pk" || name == "sk" {
				return nil, fmt.Errorf("%s is part of the key, or stands twice", name)
			}
			touched[name] = true
			action, err := e.action(clause, name)
			if err != nil {
				return nil, err
			}
			actions = append(actions, action)
		}
	}
	return func(i item) error {
		for _, action := range actions {
			if err := action(i); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func (e *expressions) action(clause, name string) (func(item) error, error) {
	switch clause {
	case "REMOVE":
		return func(i item) error { delete(i, name); return nil }, nil
	case "SET":
		if err := e.expect("="); err != nil {
			return nil, err
		}
		v, err := e.value()
		return func(i item) error { i[name] = v; return nil }, err
	case "ADD":
		v, err := e.value()
		if err == nil && v.N == nil {
			err = errors.New("ADD takes numbers")
		}
		return func(i item) error {
			sum := new(big.Int)
			if old, there := i[name]; there && old.N == nil {
				return errors.New("an operand in the update expression has an incorrect data type")
			} else if there {
				sum = old.number()
			}
			text := sum.Add(sum, v.number()).String()
			i[name] = value{N: &text}
			return nil
		}, err
	}
	return nil, fmt.Errorf("unknown in an update: %s", clause)
}
