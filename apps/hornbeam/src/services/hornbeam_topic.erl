%% SPDX-License-Identifier: Apache-2.0

%% @private Topics and their patterns. Pure.
%%
%% A topic is split into segments at each `:' and each `/'. In a pattern the segment `*' stands for
%% exactly one segment, which may be empty, and `#', which may only come last, for all that follow,
%% also none. A pattern without either is a topic and means it byte for byte.
%%
%% To find the patterns that match a topic without trying them all, each pattern has a shape: where
%% its stars are. Of one shape at most one pattern matches a given topic, and {@link instance/2}
%% makes it; so the cost is one look-up for each shape that is in use, and there are few.
-module(hornbeam_topic).

%% API
-export([is_topic/1]).
-export([split/1]).
-export([read_pattern/1]).
-export([shape/1]).
-export([instance/2]).

-export_type([topic/0, subject/0, segments/0, pattern/0, shape/0]).

-type topic() :: binary().

-type segments() :: [binary()].

-type pattern() :: [binary() | '*' | '#'].

-type subject() :: topic() | pattern().
%% What a subscription is for: a topic, or all topics that match.

-type shape() :: ['_' | '*' | '#'].
%% `_' stands for a segment that has to be the very same.

-define(SEPARATORS, [<<":">>, <<"/">>]).

%% @doc Whether messages can be published to it.
-spec is_topic(binary()) -> boolean().
is_topic(Topic) ->
    case binary:match(Topic, [<<"*">>, <<"#">>]) of
        nomatch -> true;
        _ -> not lists:any(fun is_wildcard/1, split(Topic))
    end.

-spec split(topic()) -> segments().
split(Topic) ->
    binary:split(Topic, ?SEPARATORS, [global]).

-spec read_pattern(binary()) -> {ok, subject()} | {error, invalid_pattern}.
read_pattern(Text) ->
    case is_topic(Text) of
        true -> {ok, Text};
        false -> read_segments(split(Text), [])
    end.

-spec shape(pattern()) -> shape().
shape(Pattern) ->
    [case is_atom(Segment) of
         true -> Segment;
         false -> '_'
     end || Segment <- Pattern].

%% @doc The pattern of that shape that matches the topic of these segments.
-spec instance(shape(), segments()) -> {ok, pattern()} | none.
instance(Shape, Segments) ->
    instance(Shape, Segments, []).

%%% Internal

is_wildcard(Segment) ->
    Segment =:= <<"*">> orelse Segment =:= <<"#">>.

read_segments([<<"#">>], Read) -> {ok, lists:reverse(Read, ['#'])};
read_segments([<<"#">> | _], _) -> {error, invalid_pattern};
read_segments([<<"*">> | Rest], Read) -> read_segments(Rest, ['*' | Read]);
read_segments([Segment | Rest], Read) -> read_segments(Rest, [Segment | Read]);
read_segments([], Read) -> {ok, lists:reverse(Read)}.

instance(['#'], _, Made) -> {ok, lists:reverse(Made, ['#'])};
instance(['*' | Shape], [_ | Segments], Made) -> instance(Shape, Segments, ['*' | Made]);
instance(['_' | Shape], [Segment | Segments], Made) -> instance(Shape, Segments, [Segment | Made]);
instance([], [], Made) -> {ok, lists:reverse(Made)};
instance(_, _, _) -> none.
