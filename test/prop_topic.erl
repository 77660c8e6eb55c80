%% SPDX-License-Identifier: Apache-2.0
%% Topics and patterns beside a matcher that is written as the rules are told.
-module(prop_topic).

-include("hornbeam_proper.hrl").

-import(proper_types, [list/1, non_empty/1, oneof/1]).

-export([prop_instances_are_the_patterns_that_match/0]).
-export([prop_separators_are_one/0]).
-export([prop_only_last_hash/0]).

%% The pattern of its shape that is made for a topic is the pattern itself exactly when it matches.
prop_instances_are_the_patterns_that_match() ->
    ?FORALL({PatternSegments, Segments}, {pattern(), topic()}, begin
        Topic = join(Segments, <<":">>),
        case hornbeam_topic:read_pattern(join(PatternSegments, <<":">>)) of
            {ok, Exact} when is_binary(Exact) ->
                (Exact =:= Topic) =:= matches(PatternSegments, Segments);
            {ok, Pattern} ->
                Instance = hornbeam_topic:instance(hornbeam_topic:shape(Pattern),
                                                   hornbeam_topic:split(Topic)),
                (Instance =:= {ok, Pattern}) =:= matches(PatternSegments, Segments)
        end
    end).

prop_separators_are_one() ->
    ?FORALL(Segments, topic(),
        hornbeam_topic:split(join(Segments, <<":">>)) =:= Segments andalso
            hornbeam_topic:split(join(Segments, <<"/">>)) =:= Segments).

%% A pattern is refused exactly when `#' stands before another segment.
prop_only_last_hash() ->
    ?FORALL(Segments, non_empty(list(oneof([segment(), <<"*">>, <<"#">>]))), begin
        IsRefused = hornbeam_topic:read_pattern(join(Segments, <<"/">>)) =:=
            {error, invalid_pattern},
        IsRefused =:= lists:member(<<"#">>, lists:droplast(Segments))
    end).

topic() -> non_empty(list(segment())).

%% Few, so that topics and patterns meet.
segment() -> oneof([<<"a">>, <<"b">>, <<>>, <<"a*">>, <<"##">>]).

pattern() ->
    ?LET({Segments, Last}, {list(oneof([segment(), <<"*">>])), oneof([[], [<<"#">>], [<<"a">>]])},
        case Segments ++ Last of
            [] -> [<<"a">>];
            Pattern -> Pattern
        end).

join(Segments, Separator) ->
    iolist_to_binary(lists:join(Separator, Segments)).

matches([<<"#">>], _) -> true;
matches([<<"*">> | Pattern], [_ | Segments]) -> matches(Pattern, Segments);
matches([Segment | Pattern], [Segment | Segments]) -> matches(Pattern, Segments);
matches([], []) -> true;
matches(_, _) -> false.
