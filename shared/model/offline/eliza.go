package offline

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxWords is how much of a message is read; the rest is ignored.
	maxWords = 2000
	// maxLinks bounds a chain of links, so that a circle in a script ends.
	maxLinks = 8
	// recallEvery is the paper's counter LIMIT: on every fourth turn a message
	// without a keyword is answered from memory, if there is any.
	recallEvery = 4
)

// delimiters end a clause when they end a word: agents.yaml and 3.14 are words.
// The paper has the comma and the period; its terminal had no question mark.
const delimiters = ".,;:!?…。，；：！？"

// quotes surround words and are no part of them.
const quotes = "\"'`“”‘’«»()[]{}<>*"

// keyword is one entry of a script.
type keyword struct {
	words   string  // what to look for, separated by spaces: synonyms share an entry
	becomes string  // takes the word's place in the text, unless empty
	tag     string  // the group that patterns call /tag
	rank    int     // precedence: a higher one is answered first
	rules   []*rule // tried in order; without any, a word is only substituted or tagged
	memory  *rule   // what to keep for later when this keyword is the highest
}

// rule is a decomposition pattern and the replies that put its parts together
// again, used in rotation.
type rule struct {
	pattern []element
	replies []reply
}

// element is one place of a pattern. Just one of its fields is set; none means
// 0, any number of words.
type element struct {
	count int      // exactly so many words
	oneOf []string // one of these words
	tag   string   // one word of this group
}

// reply is what to do with the parts of a match: say words; or, with a link, go
// on as if the keyword linked to had been found, in words if there are any (the
// paper's PRE). A reply with neither is the paper's NEWKEY.
type reply struct {
	words []string
	link  string
}

// on writes a rule. A pattern's places are separated by spaces, each of them
// 0, a number, word, *this|or|that or /tag; a digit in a reply stands for the
// part found by the place of that number, counted from 1 (so no more than nine
// places can be named). Instead of text a reply may be
//
//	=keyword            link to keyword
//	pre text =keyword   link to keyword with text in the message's place
//	newkey              give way to the next keyword
//
// on panics when a reply names a place that its pattern doesn't have.
func on(pattern string, replies ...string) *rule {
	r := &rule{}
	for place := range strings.FieldsSeq(pattern) {
		r.pattern = append(r.pattern, parseElement(place))
	}
	for _, text := range replies {
		parsed := parseReply(text)
		for _, word := range parsed.words {
			if _, place, _ := cutPlace(word); place > len(r.pattern) {
				panic(fmt.Sprintf("script: reply %q names a place that %q lacks", text, pattern))
			}
		}
		r.replies = append(r.replies, parsed)
	}
	return r
}

func parseElement(place string) element {
	if count, err := strconv.Atoi(place); err == nil {
		return element{count: count}
	}
	if tag, ok := strings.CutPrefix(place, "/"); ok {
		return element{tag: tag}
	}
	return element{oneOf: strings.Split(strings.TrimPrefix(place, "*"), "|")}
}

func parseReply(text string) reply {
	if text == "newkey" {
		return reply{}
	}
	text, link, _ := strings.Cut(text, "=")
	return reply{words: strings.Fields(strings.TrimPrefix(text, "pre ")), link: link}
}

// cutPlace parts a reply's word around the digit that names a place: “4?” is
// place 4 followed by a question mark. A word without a digit has place 0.
func cutPlace(word string) (before string, place int, after string) {
	i := strings.IndexAny(word, "123456789")
	if i < 0 {
		return word, 0, ""
	}
	return word[:i], int(word[i] - '0'), word[i+1:]
}

// script is all that ELIZA knows; the engine itself knows no word but "but".
// It is never written to once made.
type script struct {
	keywords map[string]*keyword // by each of their words, in lower case
	none     *keyword            // answers what nothing else does
}

// newScript panics when a reply links to a keyword that isn't there.
func newScript(keywords []keyword, none keyword) *script {
	s := &script{keywords: make(map[string]*keyword, 2*len(keywords)), none: &none}
	for i := range keywords {
		for word := range strings.FieldsSeq(keywords[i].words) {
			s.keywords[word] = &keywords[i]
		}
	}
	for _, k := range append(keywords, none) {
		for _, r := range k.rules {
			for _, reply := range r.replies {
				if reply.link != "" && s.keywords[reply.link] == nil {
					panic(fmt.Sprintf("script: no keyword %q to link to", reply.link))
				}
			}
		}
	}
	return s
}

// scan reads a message from left to right and returns the one clause to answer,
// with its words substituted, and the keywords found in it, the one to try
// first at the front.
//
// A keyword goes to the front if it ranks higher than the one that is there,
// else to the back. At a delimiter the clause so far is kept and all that
// follows dropped if it has a keyword, else it is dropped itself. When no clause
// has one the longest is returned, so that even NONE has words to heed (the
// paper keeps nothing then).
func (s *script) scan(message string) (clause []string, stack []*keyword) {
	var longest []string
	read := 0
	for field := range strings.FieldsSeq(message) {
		if read++; read > maxWords {
			break
		}
		word, ends := trim(field)
		if strings.EqualFold(word, "but") {
			word, ends = "", true
		}
		known := strings.ToLower(word)
		if k := s.keywords[known]; k != nil {
			word = cmp.Or(k.becomes, known) // "What" won't open the sentence it ends up in
			if len(k.rules) > 0 {
				stack = push(stack, k)
			}
		}
		if word != "" {
			clause = append(clause, word)
		}
		if !ends {
			continue
		}
		if len(stack) > 0 {
			break
		}
		if len(clause) > len(longest) {
			longest = clause
		}
		clause = nil
	}
	if len(stack) == 0 && len(longest) > len(clause) {
		clause = longest
	}
	return clause, stack
}

// trim takes the punctuation off a word and says whether it ends a clause. What
// it returns is valid UTF-8, with the typewriter's apostrophe.
func trim(field string) (word string, ends bool) {
	field = strings.ToValidUTF8(field, "\uFFFD")
	word = strings.TrimRight(field, quotes+delimiters)
	ends = strings.ContainsAny(field[len(word):], delimiters)
	word = strings.TrimLeft(word, quotes)
	return strings.ReplaceAll(word, "’", "'"), ends
}

// push keeps each keyword once: the stack is no longer than the script,
// however often a message repeats itself.
func push(stack []*keyword, k *keyword) []*keyword {
	switch {
	case slices.Contains(stack, k):
		return stack
	case len(stack) > 0 && k.rank > stack[0].rank:
		return slices.Insert(stack, 0, k)
	default:
		return append(stack, k)
	}
}

// match divides words into one part for each place of the pattern, every 0
// taking as few words as it can. Only the last 0 met is ever given more: what
// stands between two of them has a fixed length, so a later start of the
// earlier one can't help. The cost is at most len(words) × len(pattern).
func (s *script) match(pattern []element, words []string) (parts [][]string, ok bool) {
	starts := make([]int, len(pattern)+1) // where each place's part starts in words
	place, at := 0, 0
	last, taken := -1, 0 // the last 0, and how far it reaches
	for place < len(pattern) || at < len(words) {
		starts[place] = at
		if place < len(pattern) {
			if pattern[place].any() {
				last, taken = place, at
				place++
				continue
			}
			if n, ok := s.fits(pattern[place], words[at:]); ok {
				at += n
				place++
				continue
			}
		}
		if last < 0 || taken == len(words) {
			return nil, false
		}
		taken++
		place, at = last+1, taken
	}
	starts[place] = at
	parts = make([][]string, len(pattern))
	for i := range parts {
		parts[i] = words[starts[i]:starts[i+1]]
	}
	return parts, true
}

func (e element) any() bool { return e.count == 0 && e.oneOf == nil && e.tag == "" }

// fits says whether words begin with what e asks for, and how many words that is.
func (s *script) fits(e element, words []string) (n int, ok bool) {
	switch {
	case e.count > 0:
		return e.count, len(words) >= e.count
	case len(words) == 0:
		return 0, false
	case e.tag != "":
		k := s.keywords[strings.ToLower(words[0])]
		return 1, k != nil && k.tag == e.tag
	default:
		return 1, slices.ContainsFunc(e.oneOf, func(w string) bool { return strings.EqualFold(w, words[0]) })
	}
}

// assemble puts parts in the places that words name. Punctuation around a
// place stays with the words there, or with the word before if there are none.
func assemble(words []string, parts [][]string) []string {
	var out []string
	for _, word := range words {
		before, place, after := cutPlace(word)
		switch {
		case place == 0:
			out = append(out, word)
		case len(parts[place-1]) > 0:
			from := len(out)
			out = append(out, parts[place-1]...)
			out[from] = before + out[from]
			out[len(out)-1] += after
		case len(out) > 0:
			out[len(out)-1] += before + after
		}
	}
	return out
}

// conversation is what changes while ELIZA talks with one person. It is made
// anew for every request and lives no longer.
type conversation struct {
	script *script
	used   map[*rule]int // how often each rule has replied
	turn   int           // turns so far
	memory [][]string    // replies kept for later, oldest first
}

// respond takes one turn and returns the words of the reply, at least one.
func (c *conversation) respond(message string) []string {
	c.turn++
	clause, stack := c.script.scan(message)
	if len(stack) > 0 {
		c.remember(stack[0], clause)
	} else if len(c.memory) > 0 && c.turn%recallEvery == 0 {
		recalled := c.memory[0]
		c.memory = c.memory[1:]
		return recalled
	}
	for _, k := range stack {
		if words := c.transform(k, clause); len(words) > 0 {
			return words
		}
	}
	return c.transform(c.script.none, clause)
}

// remember keeps a reply for later if k has a memory. As in the paper a hash of
// the clause's last word chooses which; that passes for chance and repeats.
func (c *conversation) remember(k *keyword, clause []string) {
	if k.memory == nil {
		return
	}
	parts, ok := c.script.match(k.memory.pattern, clause)
	if !ok {
		return
	}
	hash := fnv.New32a()
	hash.Write([]byte(clause[len(clause)-1]))
	chosen := k.memory.replies[hash.Sum32()%uint32(len(k.memory.replies))]
	c.memory = append(c.memory, assemble(chosen.words, parts))
}

// transform answers clause as k's first fitting rule says, and follows links.
// It returns nothing when no rule fits, or the reply gives way to the next
// keyword.
func (c *conversation) transform(k *keyword, clause []string) []string {
	for range maxLinks {
		r, parts := c.decompose(k, clause)
		if r == nil {
			return nil
		}
		next := r.replies[c.used[r]%len(r.replies)]
		c.used[r]++
		words := assemble(next.words, parts)
		if next.link == "" {
			return words
		}
		if len(words) > 0 {
			clause = words
		}
		k = c.script.keywords[next.link]
	}
	return nil
}

func (c *conversation) decompose(k *keyword, clause []string) (*rule, [][]string) {
	for _, r := range k.rules {
		if parts, ok := c.script.match(r.pattern, clause); ok {
			return r, parts
		}
	}
	return nil, nil
}

// sentence joins words and begins with a capital, where the script has one.
func sentence(words []string) string {
	s := strings.Join(words, " ")
	first, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(first)) + s[size:]
}
