"""Reading documents: files and Hub datasets -> parts of work -> rows -> texts that meet the conditions."""
