%% SPDX-License-Identifier: Apache-2.0

%% @private Which names somebody may have meant who wrote one that is not there. Pure.
-module(hornbeam_near).

%% API
-export([names/2]).

%% How far a text may be from a name to count as a slip of the pen.
-define(MAX_SLIPS, 3).
%% No more names than a human wants to read.
-define(MAX_NAMES, 5).

%% @doc Those of the names that are near the text, the nearest first.
-spec names(Text :: binary(), Names :: [binary()]) -> [binary()].
names(Text, Names) ->
    Distances = lists:sort([{distance(Text, Name), Name} || Name <- Names]),
    Near = [Name || {Distance, Name} <- Distances,
                    Distance =< ?MAX_SLIPS, Distance < byte_size(Text)],
    lists:sublist(Near, ?MAX_NAMES).

%% The number of letters to insert, delete or replace (Levenshtein), a row at a time.
distance(From, To) ->
    Letters = string:to_graphemes(To),
    FirstRow = lists:seq(0, length(Letters)),
    Rows = lists:foldl(
        fun(Letter, [Above | _] = Row) -> next_row(Letter, Letters, Row, [Above + 1]) end,
        FirstRow,
        string:to_graphemes(From)
    ),
    lists:last(Rows).

next_row(_, [], [_], Row) ->
    lists:reverse(Row);
next_row(Letter, [Other | Letters], [Diagonal | [Above | _] = Rest], [Left | _] = Row) ->
    Replaced =
        case Letter of
            Other -> Diagonal;
            _ -> Diagonal + 1
        end,
    next_row(Letter, Letters, Rest, [min(Replaced, min(Above, Left) + 1) | Row]).
