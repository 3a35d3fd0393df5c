module hybrid-recommender/tools/pause

go 1.21
