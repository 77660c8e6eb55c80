%% SPDX-License-Identifier: Apache-2.0
%% Whose turn it is on an HTTP/1 connection; each case is one.
-module(hornbeam_pipeline_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([http2_has_no_turns/1]).
-export([one_after_the_other/1]).
-export([first_that_comes_late_is_not_parked/1]).
-export([limit_of_those_who_wait/1]).
-export([taken_over/1]).

%% As in hornbeam_pipeline.
-define(MAX_PIPELINED, 64).

all() ->
    [http2_has_no_turns, one_after_the_other, first_that_comes_late_is_not_parked,
     limit_of_those_who_wait, taken_over].

%% Streams run side by side, and none is taken for current.
http2_has_no_turns(_) ->
    ?assertEqual(side_by_side, arrive('HTTP/2', 1)),
    ?assertNot(hornbeam_pipeline:is_busy()),
    ok = hornbeam_pipeline:ended(1),
    ?assertEqual([], unparked()).

%% Each end tells the next one that waits, and the last leaves nothing behind.
one_after_the_other(_) ->
    ?assertEqual(first, arrive('HTTP/1.1', 1)),
    ?assert(hornbeam_pipeline:is_busy()),
    [begin
        ?assertEqual(behind, arrive('HTTP/1.1', N)),
        ok = hornbeam_pipeline:park(N)
     end || N <- [2, 3]],
    ok = hornbeam_pipeline:ended(1),
    ?assertEqual([2], unparked()),
    ?assertEqual(followed, hornbeam_pipeline:standing(2)),
    %% Not its turn.
    ok = hornbeam_pipeline:ended(3),
    ?assertEqual([], unparked()),
    ok = hornbeam_pipeline:ended(2),
    ?assertEqual([3], unparked()),
    ?assertEqual(last, hornbeam_pipeline:standing(3)),
    ok = hornbeam_pipeline:ended(3),
    ?assertEqual([], unparked()),
    ?assertNot(hornbeam_pipeline:is_busy()).

%% What was parked once does not count for those that come after.
first_that_comes_late_is_not_parked(_) ->
    one_after_the_other(config),
    ?assertEqual(first, arrive('HTTP/1.1', 4)),
    ok = hornbeam_pipeline:ended(4),
    ?assertEqual([], unparked()).

%% The limit is that of the requests behind the current one.
limit_of_those_who_wait(_) ->
    ?assertEqual(first, arrive('HTTP/1.1', 7)),
    ?assertEqual(behind, arrive('HTTP/1.1', 7 + ?MAX_PIPELINED)),
    ?assertEqual(too_far_ahead, arrive('HTTP/1.1', 8 + ?MAX_PIPELINED)).

%% Of a connection that was taken over nothing is current.
taken_over(_) ->
    ?assertEqual(first, arrive('HTTP/1.1', 1)),
    ok = hornbeam_pipeline:leave(),
    ?assertNot(hornbeam_pipeline:is_busy()),
    ?assertEqual(alone, hornbeam_pipeline:standing(1)),
    ok = hornbeam_pipeline:ended(1),
    ?assertEqual([], unparked()).

arrive(Version, StreamId) ->
    hornbeam_pipeline:arrive(#{version => Version, stream_id => StreamId}).

%% The streams that were told that it is their turn.
unparked() ->
    Self = self(),
    receive {{Self, StreamId}, unpark} -> [StreamId | unparked()]
    after 0 -> []
    end.
