package offline

// greeting opens a conversation in which nobody has said anything yet.
const greeting = "I am ELIZA, a small program that answers with your own words. What are you working on?"

// newELIZA writes the script: what ELIZA knows about the people it talks with,
// here people who put agents to work. Every reply repeats words of the message,
// and none promises work that a program without understanding can't do.
//
// Patterns and links see the text after substitution: "my" is "your" and "I" is
// "you" there, while "you" is "I".
func newELIZA() *script {
	return newScript([]keyword{
		// Substitution alone: the message seen from the other side.
		{words: "me us", becomes: "you"},
		{words: "am", becomes: "are"},
		{words: "myself ourselves", becomes: "yourself"},
		{words: "yourself", becomes: "myself"},
		{words: "mine ours", becomes: "yours"},
		{words: "yours", becomes: "mine"},
		{words: "your", becomes: "my"},
		{words: "i've ive we've", becomes: "you've"},
		{words: "i'll we'll", becomes: "you'll"},
		{words: "you've youve", becomes: "I've"},
		{words: "you'll youll", becomes: "I'll"},

		// Groups alone.
		{words: "boss team manager client customer colleague user users customers colleagues", tag: "person"},

		// What is wanted.
		{words: "need needs want wants wish", tag: "wish", rank: 7, rules: []*rule{
			on("0 you 0 /wish I to 1 0",
				"If I were to 7 8, how would you know that it is done well?",
				"Suppose I did 7 8. What would you do next?"),
			on("0 you 0 /wish to 1 0",
				"What is the first step to 6 7?",
				"What keeps you from starting to 6 7 now?"),
			on("0 you 0 /wish 1 0",
				"What would 5 6 give you?",
				"Who else could use 5 6?",
				"Which part of 5 6 comes first?"),
			on("0 /wish 1 0",
				"What would 3 4 change?",
				"Who gains most from 3 4?"),
		}},
		{words: "i'd we'd", becomes: "you'd", rank: 7, rules: []*rule{
			on("0 you'd *like|love 1 0", "pre 1 you want 4 5 =want"),
		}},

		// What is asked.
		{words: "what what's how how's why where where's who who's", tag: "question", rank: 6, rules: []*rule{
			on("0 *who|what are I 0",
				"You ask 2 I am: ELIZA, a program that answers with your own words. What are you working on?"),
			on("0 how are I 0",
				"You ask how I am: ready. How is your work going?"),
			on("0 what can I do 0",
				"What I can do is hand your own words back to you until the matter is clear. Which matter is it?"),
			on("0 *what|how|where|when *do|should|can|could you 1 0",
				"You want to know 2 to 5 6. What have you tried so far?",
				"Who could show you 2 to 5 6?"),
			on("0 /question 1 0",
				"You ask 2 3 4. What do you know about it already?",
				"What would you do if you knew 2 3 4?",
				"Who could tell you 2 3 4?"),
		}},
		{words: "when which", tag: "question", rank: 6, rules: []*rule{
			on("*when|which 1 0", "=what"), // elsewhere it is rarely a question
			on("0", "newkey"),
		}},
		{words: "can could would will may", rank: 5, rules: []*rule{
			on("0 *can|could|would|will I please 1 0", "pre 2 I 5 6 =can"),
			on("0 *can|could|would|will I 1 0",
				"What would you do next if I could 4 5?",
				"What should come out of it if I were to 4 5?"),
			on("0 *can|could|may you 1 0",
				"Is there a reason why you should not 4 5?",
				"What would you gain if you could 4 5?"),
		}},
		{words: "summarise summarize translate write draft explain list find review check compare fix " +
			"build make create show give tell help send read plan describe suggest search test run",
			tag: "task", rank: 4, rules: []*rule{
				on("you /task 1 0", "What happens when you 2 3 4?"),
				on("/task 1 0",
					"To 1 2 3, what would have to come first?",
					"Who is waiting for somebody to 1 2 3?"),
				on("0 *the|a|an|this|that|your|my|each|every /task 0", "newkey"), // a list, the test
				on("0 /task 1 0",
					"To 2 3 4, what would have to come first?",
					"What makes this the moment to 2 3 4?"),
				on("0 /task", "What is it that somebody should 2?"),
			}},

		// What stands in the way.
		{words: "can't cant cannot couldn't", becomes: "can't", rank: 6, rules: []*rule{
			on("0 you can't 1 0",
				"What would change if you could 4 5?",
				"What happens when you try to 4 5?"),
		}},
		{words: "don't dont", becomes: "don't", rank: 5, rules: []*rule{
			on("0 you don't 1 0", "What would be different if you did 4 5?"),
			on("0 don't 1 0", "What would go wrong if I did 3 4?"),
		}},
		{words: "fail fails failed crash crashes crashed hangs broke breaks broken", tag: "failure", rank: 5, rules: []*rule{
			on("0 /failure 0",
				"What changed just before 1 2 3?",
				"How often is it that 1 2 3?"),
		}},
		{words: "error errors bug bugs problem issue exception timeout failure", tag: "trouble", rank: 3, rules: []*rule{
			on("0 /trouble 0",
				"Which change came just before the 2 3?",
				"What does the 2 3 keep you from?",
				"Who else has met the 2 3?"),
		}},

		// How it hangs together.
		{words: "if", rank: 6, rules: []*rule{
			on("0 if 1 0",
				"What else would follow if 3 4?",
				"How will you find out if 3 4?"),
		}},
		{words: "because", rank: 5, rules: []*rule{
			on("0 because 1 0",
				"If it were not that 3 4, what would you do?",
				"What else, besides that 3 4, plays a part?"),
		}},
		{words: "always never", tag: "sweeping", rank: 3, rules: []*rule{
			on("0 /sweeping 0",
				"What led you to conclude that 1 2 3?",
				"When was it last so that 1 2 3?"),
		}},
		{words: "everyone everybody nobody everything nothing", tag: "sweeping", rank: 3, rules: []*rule{
			on("0", "=always"),
		}},

		// Who is speaking, and to whom.
		{words: "my our", becomes: "your", rank: 2,
			rules: []*rule{
				on("0 your /person 1 0",
					"What does it mean for you that your 3 4 5?",
					"And if it were not so that your 3 4 5?"),
				on("0 your 1 0",
					"Your 3 4: what should become of it?",
					"What comes to mind first about this: your 3 4?",
					"Who besides you knows of this: your 3 4?"),
			},
			memory: on("0 your 1 0",
				"Before, you spoke of this: your 3 4. Does that bear on it?",
				"Let us go back to this: your 3 4. Has anything changed since?",
				"Has that to do with what you said before, your 3 4?",
				"And what of this, said before: your 3 4?")},
		{words: "i'm im we're", becomes: "you're", rules: []*rule{
			on("0 you're 0", "pre 1 you are 3 =i"),
		}},
		{words: "you're youre", becomes: "I'm", rules: []*rule{
			on("0 I'm 0", "pre 1 I are 3 =you"),
		}},
		{words: "i we", becomes: "you", rules: []*rule{
			on("0 you are *trying|hoping|planning|going to 1 0", "What is still missing to 6 7?"),
			on("0 you are 1 0",
				"What follows from your being 4 5?",
				"Would others agree that you are 4 5?"),
			on("0 you *think|believe|guess|suppose|feel 1 0",
				"On what grounds do you 3 4 5?",
				"What would make you 3 otherwise than 4 5?"),
			on("0 you 1 0",
				"You 3 4. What would you like to come of it?",
				"So you 3 4. What comes next?"),
		}},
		{words: "you", becomes: "I", rules: []*rule{
			on("0 thank I 0", "No need to thank a program. What is left to do?"),
			on("0 do I 1 0", "Would it help you if I did 4 5?"),
			on("0 are I 1 0", "I am ELIZA, a small program. Would it matter to you if I were 4 5?"),
			on("0 I are 1 0",
				"What tells you that I am 4 5?",
				"And if I were not 4 5?"),
			on("0 I 1 0",
				"Suppose it is so that I 3 4. What then?",
				"What tells you that I 3 4?"),
		}},
	}, keyword{rules: []*rule{
		on("*hello|hi|hey|greetings 0", "1, and welcome. What are you working on?"),
		on("*thanks|cheers 0", "1 to you, too. What is left to do?"),
		on("*bye|goodbye 0", "1, and come back with whatever is left open."),
		on("1 0",
			"Let us stay with this: 1 2. What should come of it?",
			"1 2: what about it matters most to you?",
			"Say more about this: 1 2.",
			"So, 1 2. Who needs to know it?"),
		on("0",
			"I find no words to go by. What are you working on?",
			"There are no words in this. What would you like to say?"),
	}})
}
