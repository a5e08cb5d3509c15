package bedrock

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// Covered reports whether one of arns, written as the resources of an IAM policy
// are (with * and ?), stands for the model of that id in region. The id is what a
// request's Model is: a model's, an inference profile's, or the ARN of one.
//
// It is for a warning before the first refusal, and where it can't know it says
// yes: an id tells neither account nor partition, nor for certain whether it is a
// model's or a profile's; and IAM wants the models behind a profile too, which
// only Bedrock knows.
func Covered(arns []string, region, id string) bool {
	return slices.ContainsFunc(arns, func(arn string) bool {
		pattern := parts(arn)
		if strings.HasPrefix(id, "arn:") {
			return pattern.match(parts(id))
		}
		in := func(account, kind string) bool {
			return pattern.match(arnParts{"arn", pattern[1], "bedrock", region, account, kind + "/" + id})
		}
		account := cmp.Or(pattern[4], "some account's") // every profile has one, and no model of Bedrock's own
		return in("", "foundation-model") || in(account, "inference-profile") || in(account, "application-inference-profile")
	})
}

// arnParts is arn:partition:service:region:account:resource; a resource may have
// colons itself.
type arnParts [6]string

// parts splits an ARN. What one leaves out at its end stands for anything, as in
// IAM; so a * alone is everything.
func parts(arn string) arnParts {
	all := arnParts{"*", "*", "*", "*", "*", "*"}
	copy(all[:], strings.SplitN(arn, ":", len(all)))
	return all
}

// match reports whether each part of arn is what the pattern's says: no wildcard
// reaches across parts.
func (pattern arnParts) match(arn arnParts) bool {
	for i, part := range pattern {
		expression := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(part))
		if is, _ := regexp.MatchString("^(?s:"+expression+")$", arn[i]); !is {
			return false
		}
	}
	return true
}
