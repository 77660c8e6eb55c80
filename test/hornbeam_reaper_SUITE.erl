%% SPDX-License-Identifier: Apache-2.0
%% What is decided of an idle connection. That it is done is tested in hornbeam_listener_SUITE.
-module(hornbeam_reaper_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([idle_until_keepalive/1]).
-export([first_request_has_the_time_of_a_head/1]).
-export([idle_anew/1]).
-export([head_that_drips/1]).
-export([head_that_never_ends/1]).
-export([no_limits/1]).

-define(LIMITS, #{keepalive => 5000, header_timeout => 10000, max_head => 100}).

all() ->
    [
        idle_until_keepalive,
        first_request_has_the_time_of_a_head,
        idle_anew,
        head_that_drips,
        head_that_never_ends,
        no_limits
    ].

%% A connection that says nothing after a response is closed at the limit.
idle_until_keepalive(_) ->
    Mark = {3, 500, undefined},
    ?assertEqual({keep, Mark}, decide(Mark, #{now_ms => 4999, total => 3, received => 500})),
    ?assertEqual(finish, decide(Mark, #{now_ms => 5000, total => 3, received => 500})).

%% One that has not said anything yet has the longer time.
first_request_has_the_time_of_a_head(_) ->
    Mark = {0, 0, undefined},
    ?assertEqual({keep, Mark}, decide(Mark, #{now_ms => 9999, total => 0, received => 0})),
    ?assertEqual(finish, decide(Mark, #{now_ms => 10000, total => 0, received => 0})).

%% After a request its bytes are no bytes of a new head.
idle_anew(_) ->
    Observed = #{now_ms => 100000, total => 4, received => 900},
    ?assertEqual({keep, {4, 900, undefined}}, decide({3, 500, 1000}, Observed)).

%% The time of a head counts from when its first bytes were seen, however much comes meanwhile.
head_that_drips(_) ->
    {keep, Mark} = decide({3, 500, undefined}, #{now_ms => 1000, total => 3, received => 501}),
    ?assertEqual({3, 500, 1000}, Mark),
    ?assertEqual({keep, Mark}, decide(Mark, #{now_ms => 10999, total => 3, received => 510})),
    ?assertEqual(finish, decide(Mark, #{now_ms => 11000, total => 3, received => 511})).

%% More bytes than any head may have are no head.
head_that_never_ends(_) ->
    Mark = {3, 500, undefined},
    ?assertMatch({keep, _}, decide(Mark, #{now_ms => 1, total => 3, received => 600})),
    ?assertEqual(finish, decide(Mark, #{now_ms => 1, total => 3, received => 601})).

%% `infinity' is never over.
no_limits(_) ->
    Limits = ?LIMITS#{keepalive => infinity, header_timeout => infinity},
    Observed = #{now_ms => 1 bsl 60, idle_since_ms => 0, total => 3, received => 500},
    ?assertMatch({keep, _}, hornbeam_reaper:decide(Limits, {3, 500, undefined}, Observed)),
    ?assertMatch({keep, _}, hornbeam_reaper:decide(Limits, {3, 499, 0}, Observed)).

%% Internal.

decide(Mark, Observed) ->
    hornbeam_reaper:decide(?LIMITS, Mark, Observed#{idle_since_ms => 0}).
